"""Every registered likelihood is a distribution, and its mean and its draws are that distribution's."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import integrate, special
from torch import Tensor

from service.manifest import CategoricalColumn, ImageInput
from tests.training.kinds import KINDS, Kind, accepted, make
from training.likelihoods import LIKELIHOODS, Gaussian, GaussianFixed, GaussianShared, Likelihood, LikelihoodError

Array = npt.NDArray[Any]
ACCEPTED = accepted()
EVERY = pytest.mark.parametrize(("name", "kind"), ACCEPTED)
SEEDS = (0, 1)


def randomised(name: str, kind: str, seed: int) -> tuple[Likelihood, Kind, Tensor]:
    """A likelihood whose own parameters are anywhere, and decoder outputs (num_params,)."""
    likelihood, example = make(name, kind)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.7)
    return likelihood, example, 1.5 * torch.randn(likelihood.num_params, generator=generator)


def draws(likelihood: Likelihood, params: Tensor, features: int, cells: int = 160) -> Array:
    """What `sample` makes of every pair of a grid of normal and a grid of uniform noise, (cells², features)."""
    centres = (np.arange(cells) + 0.5) / cells
    normal, uniform = np.meshgrid(special.ndtri(centres), centres)
    grids = [torch.from_numpy(np.repeat(grid.reshape(-1, 1), features, 1)).float() for grid in (normal, uniform)]
    with torch.no_grad():
        return likelihood.sample(params.expand(cells**2, -1), *grids).double().numpy()


def levels(kind: Kind, feature: int, drawn: Array) -> Array | None:
    """All values that a feature can take; None if it is continuous, as its draws show."""
    if isinstance(kind.data, ImageInput):
        whole = np.arange(kind.data.low, kind.data.high + 1)
        return whole if np.isin(drawn, whole).all() else None
    column = kind.data.columns[feature]
    return np.arange(len(column.categories)) if isinstance(column, CategoricalColumn) else None


def density(likelihood: Likelihood, params: Tensor, feature: int, values: Array, features: int) -> Array:
    """P(x_feature = value), or its density, for each value."""
    x = torch.zeros(len(values), features, dtype=torch.float64)
    x[:, feature] = torch.from_numpy(np.asarray(values, np.float64))
    with torch.no_grad():
        return likelihood.log_prob(params.expand(len(values), -1), x)[:, feature].double().exp().numpy()


def grid(drawn: Array) -> Array:
    """Points so far and so fine that the trapezoidal rule over them is exact to six digits."""
    reach = np.ptp(drawn)
    return np.linspace(drawn.min() - 2 * reach, drawn.max() + 2 * reach, 10_001)


def test_every_likelihood_has_data() -> None:
    assert {name for name, _ in ACCEPTED} == LIKELIHOODS.keys()


@EVERY
@pytest.mark.parametrize("seed", SEEDS)
def test_sums_to_one_and_its_mean_and_draws_are_its_own(name: str, kind: str, seed: int) -> None:
    likelihood, example, params = randomised(name, kind, seed)
    features = len(example.data.features)
    drawn = draws(likelihood, params, features)
    with torch.no_grad():
        means = likelihood.mean(params[None])[0].double().numpy()
    assert drawn.shape[1:] == means.shape == (features,)
    for i in range(min(features, 6)):
        values = levels(example, i, drawn[:, i])
        if values is not None:
            probabilities = density(likelihood, params, i, values, features)
            assert probabilities.sum() == pytest.approx(1, abs=5e-5)
            frequencies = (drawn[:, i, None] == values).mean(0)
            np.testing.assert_allclose(frequencies, probabilities, atol=0.0075)
            if isinstance(example.data, ImageInput):
                assert means[i] == pytest.approx(probabilities @ values, abs=5e-5 * (values[-1] - values[0]))
            else:
                assert means[i] == probabilities.argmax()
        else:
            points = grid(drawn[:, i])
            curve = density(likelihood, params, i, points, features)
            cumulative = integrate.cumulative_trapezoid(curve, points, initial=0)
            assert cumulative[-1] == pytest.approx(1, abs=1e-4)
            assert means[i] == pytest.approx(np.trapezoid(points * curve, points), abs=1e-4 * np.ptp(drawn[:, i]))
            share = np.searchsorted(np.sort(drawn[:, i]), points) / len(drawn)
            assert np.abs(share - cumulative).max() < 0.0075


@EVERY
def test_broadcasts_over_draws_without_mixing_rows_or_features(name: str, kind: str) -> None:
    likelihood, example, _ = randomised(name, kind, 0)
    params = torch.randn(4, 3, likelihood.num_params, generator=torch.Generator().manual_seed(1))
    x = torch.from_numpy(example.rows[:4]).flatten(1)[:, None]
    together = likelihood.log_prob(params, x)
    assert together.shape == (4, 3, len(example.data.features))
    for row in range(4):
        for draw in range(3):
            torch.testing.assert_close(together[row, draw], likelihood.log_prob(params[row, draw], x[row, 0]))
    changed = x.clone()
    changed[..., 0] = x[:, :, 0].flip(0)
    torch.testing.assert_close(likelihood.log_prob(params, changed)[..., 1:], together[..., 1:], rtol=0, atol=0)


@EVERY
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_gradients_are_finite(name: str, kind: str, size: float) -> None:
    likelihood, example, _ = randomised(name, kind, 0)
    params = size * torch.randn(80, likelihood.num_params, generator=torch.Generator().manual_seed(2))
    params.requires_grad_()
    log_prob = likelihood.log_prob(params, torch.from_numpy(example.rows).flatten(1))
    assert log_prob.isfinite().all()
    log_prob.sum().backward()
    for tensor in (params, *likelihood.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0


@pytest.mark.parametrize(("name", "kind"), [pair for pair in ACCEPTED if KINDS[pair[1]].data.kind == "tabular"])
def test_missing_cells_add_nothing(name: str, kind: str) -> None:
    likelihood, example, params = randomised(name, kind, 0)
    missing = np.isnan(example.rows)
    assert 0 < missing.mean() < 1
    params = params.expand(80, -1).clone().requires_grad_()
    log_prob = likelihood.log_prob(params, torch.from_numpy(example.rows))
    assert (log_prob[torch.from_numpy(missing)] == 0).all()
    assert (log_prob[torch.from_numpy(~missing)] != 0).all()
    empty = torch.full((80, example.rows.shape[1]), math.nan, dtype=torch.float64)
    likelihood.log_prob(params, empty).sum().backward()
    assert params.grad is not None
    assert (params.grad == 0).all()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(
            (name, kind)
            for name in ("gaussian", "gaussian_shared", "gaussian_fixed")
            for kind in ("categories", "mixed table")
        ),
        *(("bernoulli", kind) for kind in KINDS if kind != "binary image"),
        *(("discretized_logistic", kind) for kind in ("continuous image", "numbers", "categories", "mixed table")),
        *(("mixed", kind) for kind in KINDS if "image" in kind or "levels" in kind),
    ],
)
def test_other_data_is_refused(name: str, kind: str) -> None:
    with pytest.raises(LikelihoodError, match=r"needs|likelihood of"):
        make(name, kind)


def test_the_fixed_gaussian_is_the_squared_error_of_the_textbook() -> None:
    for kind in ("numbers", "continuous image"):
        likelihood, example = make("gaussian_fixed", kind)
        assert isinstance(likelihood, GaussianFixed)
        x = torch.from_numpy(example.rows[~np.isnan(example.rows.reshape(80, -1)).any(1)]).flatten(1).double()
        params = torch.randn(len(x), likelihood.num_params, generator=torch.Generator().manual_seed(3))
        scaled = (x - likelihood.location) / likelihood.scale
        squared_error = ((scaled - params) ** 2).sum(1)
        constant = (likelihood.scale.log() + 0.5 * math.log(math.pi)).sum()
        torch.testing.assert_close(
            -likelihood.log_prob(params, x).double().sum(1), squared_error + constant, rtol=1e-5, atol=1e-4
        )
    assert not list(likelihood.parameters())


@pytest.mark.parametrize(("kind", "sigmas"), [(Gaussian, 6), (GaussianShared, 1)])
def test_learned_sigma_has_a_floor_and_starts_at_the_spread(kind: type[Gaussian], sigmas: int) -> None:
    example = KINDS["continuous image"]
    likelihood = kind(example.data, example.rows)
    assert likelihood.free_log_sigma.shape == (sigmas,)
    spread = example.rows.std() / 4
    np.testing.assert_allclose(likelihood.log_sigma().exp().detach(), spread, rtol=0.05)
    with torch.no_grad():
        likelihood.free_log_sigma.fill_(-50)
    np.testing.assert_allclose(likelihood.log_sigma().exp().detach(), 0.01, rtol=1e-4)


def test_a_constant_column_has_a_finite_density() -> None:
    example = KINDS["numbers"]
    rows = example.rows.copy()
    rows[:, 1] = 3.5
    likelihood = Gaussian(example.data, rows)
    log_prob = likelihood.log_prob(torch.zeros(80, 3), torch.from_numpy(rows))
    assert log_prob.isfinite().all()
    assert likelihood.mean(torch.zeros(3))[1] == pytest.approx(3.5)


def test_the_extreme_levels_hold_the_tails() -> None:
    likelihood, _ = make("discretized_logistic", "colour levels")
    params = torch.cat([torch.full((105,), -60.0), torch.full((105,), -60.0)])
    black, white = torch.zeros(1, 105), torch.full((1, 105), 255.0)
    torch.testing.assert_close(likelihood.log_prob(params, black), torch.zeros(1, 105), rtol=0, atol=0.5)
    assert likelihood.log_prob(params, white).isfinite().all()
    assert (likelihood.log_prob(params, white) < -500).all()
