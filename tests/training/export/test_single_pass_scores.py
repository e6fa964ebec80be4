"""Typicality and the multiscale residual, held to their definitions."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import ledoit_wolf

from service.bundle import ImageInput
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
def test_the_multiscale_residual_is_its_definition(kind: str, likelihood: str) -> None:
    vae, scores, rows = made(kind, likelihood)
    low, high = rows.min(), rows.max()
    smooth, rough = np.full_like(rows[:1], low), np.where(np.indices(rows[:1].shape)[1:3].sum(0) % 2, high, low)
    rows = np.concatenate([rows, smooth, rough])
    found = scores(torch.from_numpy(rows))[1].numpy()
    mean = vae.posterior(torch.from_numpy(rows))[0]
    reconstruction = vae.likelihood.mean(vae.decoder(mean)).numpy().reshape(rows.shape)
    residuals = (rows - reconstruction).reshape(*rows.shape[:3], -1)
    height, width, channels = residuals.shape[1:]
    windows = np.stack(
        [
            residuals[:, i : i + side, j : j + side, c].sum((1, 2)) / side
            for side in sorted({max(1, round(share * min(height, width))) for share in SIDES})
            for i in range(height - side + 1)
            for j in range(width - side + 1)
            for c in range(channels)
        ],
        1,
    )
    usual = (windows[:60] ** 2).mean(0)
    misfit = np.sqrt((windows**2 / (usual + 0.1 * usual.mean())).mean(1))
    pixels = rows.astype(float)
    variation = sum(np.abs(np.diff(pixels, axis=axis)).reshape(len(rows), -1).sum(1) for axis in (1, 2))
    roughness = np.log(variation + KINDS[kind].data.high - KINDS[kind].data.low)
    slope = np.polyfit(roughness[:60], np.log(misfit[:60]), 1)[0]
    assert roughness[80] < roughness[:60].min()
    assert roughness[81] > roughness[:60].max()
    excess = roughness.clip(roughness[:60].min(), np.quantile(roughness[:60], 0.75)) - roughness[:60].mean()
    np.testing.assert_allclose(found, misfit * np.exp(-min(max(slope, 0), 1) * excess), rtol=1e-5)


@torch.no_grad()
def test_the_misfit_of_noise_is_its_standard_deviation() -> None:
    data = ImageInput(shape=(12, 16), dtype="uint8", low=0, high=255)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (60, 12, 16)).astype(np.uint8)
    scores = SinglePassScores(build(ModelRecipe(likelihood="gaussian_shared"), data, rows, seed=3).eval(), data, rows)
    scores.usual.fill_(7)
    noise = torch.from_numpy(rng.normal(0, 7, (400, 192)))
    assert scores._misfit(noise, torch.zeros(1)).square().mean().sqrt().item() == pytest.approx(1, rel=0.02)
    # The same energy in one place, and not everywhere, is what it looks for.
    block = np.zeros((12, 16))
    block[3:6, 4:7] = 7 * math.sqrt(192 / 9)
    assert scores._misfit(torch.from_numpy(block.reshape(1, -1)), torch.zeros(1)).item() > 1.3


@torch.no_grad()
def test_a_window_counts_by_what_held_out_rows_have_there() -> None:
    """The same blot is stranger where no held-out picture has anything."""
    vae, _, _ = made("grey levels", "gaussian_shared")
    rng = np.random.default_rng(1)
    normal = np.zeros((60, 3, 4, 1), np.uint8) + 2
    normal[:, :, 2:] = rng.integers(2, 19, (60, 3, 2, 1))
    vae.decoder[-1].weight.zero_()
    scores = SinglePassScores(vae, KINDS["grey levels"].data, normal)
    blots = np.full((2, 3, 4, 1), 2, np.uint8)
    blots[0, 1, 0] = blots[1, 1, 3] = 14
    in_the_corner, among_others = scores._misfit(torch.from_numpy(blots), torch.full((1,), 2.0))
    assert in_the_corner > 2 * among_others


@torch.no_grad()
def test_pictures_may_fit_as_much_worse_as_they_are_rougher() -> None:
    """Stripes of all strengths about what the decoder gives are as usual as each other, if held-out ones vary so."""
    vae, _, _ = made("continuous image", "gaussian_shared")
    vae.decoder[-1].weight.zero_()
    vae.decoder[-1].bias.copy_((1 - vae.likelihood.location) / vae.likelihood.scale)
    strength = np.linspace(0.5, 2, 50, dtype=np.float32)[:, None, None]
    stripes = 1 + strength * np.array([[1, -1], [-1, 1], [1, -1]], np.float32)
    flat = 1 + (2.5 - strength) * np.ones((3, 2), np.float32)
    ratios = []
    for normal in (stripes, flat, stripes[:1]):
        found = SinglePassScores(vae, KINDS["continuous image"].data, normal)(torch.from_numpy(stripes))[1]
        ratios.append((found.max() / found.min()).item())
    # A sum of flat pictures' differences is that of none, and one picture shows no slope.
    assert ratios == pytest.approx([4 / 2.7, 4, 4], rel=0.2)


@torch.no_grad()
def test_rough_pictures_are_no_stranger_where_rough_ones_fit_better() -> None:
    """The stronger their stripes, the nearer these held-out pictures are to what the decoder gives."""
    vae, _, _ = made("continuous image", "gaussian_shared")
    vae.decoder[-1].weight.zero_()
    vae.decoder[-1].bias.copy_((1 - vae.likelihood.location) / vae.likelihood.scale)
    strength = np.linspace(0.1, 1, 50, dtype=np.float32)[:, None, None]
    normal = 3 - 2 * strength + 0.1 * strength * np.array([[1, -1], [-1, 1], [1, -1]], np.float32)
    scores, x = SinglePassScores(vae, KINDS["continuous image"].data, normal), torch.from_numpy(normal)
    misfit = scores._misfit(x, scores._reconstruction(x))
    assert (misfit.diff() < 0).all()
    assert (scores._log_roughness(x).diff() > 0).all()
    torch.testing.assert_close(scores(x)[1], misfit)


@pytest.mark.parametrize("normal", [1, 60])
@torch.no_grad()
def test_pictures_that_are_all_the_same_have_a_multiscale_residual(normal: int) -> None:
    vae, _, rows = made("binary image", "bernoulli")
    vae.decoder[-1].weight.zero_()
    vae.decoder[-1].bias.fill_(-200)
    black = np.zeros_like(rows)
    scores = SinglePassScores(vae, KINDS["binary image"].data, black[:normal])
    assert (scores(torch.from_numpy(black))[1] == 0).all()
    white = scores(torch.from_numpy(np.ones_like(rows)))[1]
    assert (white.isfinite() & (white > 100)).all()


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
