"""Typicality and the multiscale residual, held to their definitions."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import ledoit_wolf

from tests.training.kinds import KINDS
from training.export.single_pass_scores import SIDES, SinglePassScores
from training.model import VAE, ModelRecipe
from training.model.build import build

L = 3


def made(kind: str, likelihood: str, prior: str = "standard_normal") -> tuple[VAE, SinglePassScores, Any]:
    example = KINDS[kind]
    recipe = ModelRecipe(widths=(6,), latent_size=L, likelihood=likelihood, prior=prior, components=4)
    vae = build(recipe, example.data, example.rows, seed=3).eval()
    return vae, SinglePassScores(vae, example.data, example.rows[:60]), example.rows


@pytest.mark.parametrize(
    ("kind", "likelihood"), [("grey levels", "gaussian_shared"), ("colour levels", "gaussian_shared")]
)
@torch.no_grad()
def test_the_coarse_error_is_its_definition(kind: str, likelihood: str) -> None:
    vae, scores, rows = made(kind, likelihood)
    found = scores(torch.from_numpy(rows[:5]))[1].numpy()
    mean = vae.posterior(torch.from_numpy(rows[:5]))[0]
    reconstruction = vae.likelihood.mean(vae.decoder(mean)).numpy().reshape(5, *rows.shape[1:])
    for difference, value in zip(rows[:5] - reconstruction, found, strict=True):
        residual = difference.reshape(*rows.shape[1:3], -1)
        height, width, channels = residual.shape
        squares = [
            (residual[i : i + side, j : j + side, c].sum() / side) ** 2
            for side in sorted({max(1, round(share * min(height, width))) for share in SIDES})
            for i in range(height - side + 1)
            for j in range(width - side + 1)
            for c in range(channels)
        ]
        assert value == pytest.approx(math.sqrt(np.mean(squares)), rel=1e-5)


@torch.no_grad()
def test_the_coarse_error_of_noise_is_its_standard_deviation() -> None:
    _, scores, _ = made("colour levels", "gaussian_shared")
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.normal(0, 7, (400, 105)))
    assert scores._multiscale_residual(noise, torch.zeros(1)).square().mean().sqrt().item() == pytest.approx(
        7, rel=0.02
    )
    # The same energy in one place, and not everywhere, is what it looks for.
    block = np.zeros((7, 5, 3))
    block[2:4, 1:3] = 7 * math.sqrt(105 / 12)
    assert scores._multiscale_residual(torch.from_numpy(block.reshape(1, -1)), torch.zeros(1)).item() > 9


@torch.no_grad()
def test_rounding_of_the_statistics_is_known() -> None:
    _, scores, rows = made("grey levels", "gaussian_shared")
    x = torch.from_numpy(rows[:20])
    # A statistic that hardly varies is divided by its small deviation, and so is its rounding.
    statistics = scores._statistics(x, scores._reconstruction(x))
    off = scores._typicality(statistics * (1 + 1e-6)) - scores._typicality(statistics)
    assert (off.abs() <= scores.rounding(x, 1.1e-6)).all()


@pytest.mark.parametrize(
    ("kind", "likelihood", "prior"),
    [
        ("mixed table", "mixed", "mixture"),
        ("numbers", "gaussian", "standard_normal"),
        ("binary image", "bernoulli", "mixture"),
    ],
)
@torch.no_grad()
def test_typicality_is_the_distance_of_the_statistics(kind: str, likelihood: str, prior: str) -> None:
    vae, scores, rows = made(kind, likelihood, prior)
    x = torch.from_numpy(rows)
    statistics = scores._statistics(x, scores._reconstruction(x)).numpy()
    mean, log_variance = (tensor.double().numpy() for tensor in vae.posterior(x))
    np.testing.assert_allclose(statistics[:, 1], np.linalg.norm(mean, axis=1), rtol=1e-6)
    np.testing.assert_allclose(statistics[:, 2], np.linalg.norm(np.exp(0.5 * log_variance), axis=1), rtol=1e-6)
    at_mean = vae.bounds_at(x, torch.zeros(1, L), *vae.posterior(x))
    np.testing.assert_allclose(statistics[:, 3], at_mean.log_likelihood.numpy(), rtol=1e-6)
    # With the mean as the one draw, the evidence is log p(x|μ) + log p(μ) − log q(μ).
    np.testing.assert_allclose(statistics[:, 4], (at_mean.log_likelihood - at_mean.log_evidence).numpy(), rtol=1e-6)
    centre, spread = statistics[:60].mean(0), statistics[:60].std(0)
    standard = (statistics - centre) / spread
    assert (spread > 1e-3 * np.abs(statistics[:60]).mean(0) + 1e-6).all()
    shrunk, amount = ledoit_wolf(standard[:60])
    assert amount < 0.5
    expected = [mahalanobis(row, np.zeros(5), np.linalg.inv(shrunk)) ** 2 for row in standard]
    np.testing.assert_allclose(scores(x)[0].numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("normal", [[0], [0] * 40, [0, 0, 0, 1]])
@torch.no_grad()
def test_a_statistic_that_hardly_varies_says_little(normal: list[int]) -> None:
    vae, _, rows = made("categories", "categorical")
    scores = SinglePassScores(vae, KINDS["categories"].data, rows[normal])
    typicality = scores(torch.from_numpy(rows))[0]
    assert typicality[0] < 5
    assert typicality.isfinite().all()
    # As at most a thousandth of the statistics' size and a millionth counts as their deviation.
    x = torch.from_numpy(rows)
    assert (typicality < 5 * ((scores._statistics(x, scores._reconstruction(x)).abs() + 1) * 1e6).square().sum(1)).all()
    off = scores._typicality(scores._statistics(x, scores._reconstruction(x)) * (1 + 1e-7)) - typicality
    assert (off.abs() <= 1e-3 * (1 + typicality)).all()


@pytest.mark.parametrize("normal", [[0, 1], [0, 0, 0, 1, 1, 1]])
@torch.no_grad()
def test_two_rows_show_no_correlation(normal: list[int]) -> None:
    """Of two rows each statistic has two values, of which any determines the others."""
    vae, _, rows = made("grey levels", "gaussian_shared")
    scores = SinglePassScores(vae, KINDS["grey levels"].data, rows[normal])
    x = torch.from_numpy(rows)
    standard = (scores._statistics(x, scores._reconstruction(x)) - scores.location).square() * scores.precision.diag()
    assert (scores(x)[0] < len(normal) ** 2 * standard.sum(1)).all()


@torch.no_grad()
def test_missing_cells_differ_from_nothing() -> None:
    _, scores, rows = made("numbers", "gaussian")
    x = torch.from_numpy(np.full_like(rows[:2], np.nan))
    statistics = scores._statistics(x, scores._reconstruction(x))
    assert (statistics[:, 0] == 0.5 * math.log(1e-12)).all()
    assert statistics.isfinite().all()
