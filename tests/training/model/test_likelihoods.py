"""Every registered likelihood is a distribution, and its mean and its draws are that distribution's."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import integrate, special
from torch import Tensor

from service.bundle import CategoricalColumn, ImageInput, TabularInput
from tests.training.kinds import KINDS, Kind, accepted, make
from training.model import LIKELIHOODS
from training.model.likelihoods import Likelihood, LikelihoodError
from training.model.likelihoods.categorical import Categorical
from training.model.likelihoods.gaussian import Gaussian, GaussianFixed, GaussianShared, resolution
from training.model.likelihoods.mixed import MixedAsinh
from training.model.likelihoods.pixels import ContinuousBernoulli

Array = npt.NDArray[Any]
IMAGES = {"binary image", "grey levels", "colour levels", "continuous image"}
TAKES = {
    "gaussian": IMAGES | {"numbers"},
    "gaussian_shared": IMAGES | {"numbers"},
    "gaussian_heteroscedastic": IMAGES | {"numbers"},
    "gaussian_fixed": IMAGES | {"numbers"},
    "bernoulli": {"binary image"},
    "continuous_bernoulli": IMAGES,
    "discretized_logistic": {"binary image", "grey levels", "colour levels"},
    "categorical": {"binary image", "grey levels", "colour levels", "categories"},
    "mixed": {"numbers", "categories", "mixed table"},
    "mixed_heteroscedastic": {"numbers", "categories", "mixed table"},
    "mixed_asinh": {"numbers", "categories", "mixed table"},
}
ACCEPTED = accepted()
EVERY = pytest.mark.parametrize(("name", "kind"), ACCEPTED)


def randomised(name: str, kind: str, seed: int) -> tuple[Likelihood, Kind, Tensor]:
    """A likelihood whose own parameters are anywhere, and decoder outputs (num_params,)."""
    likelihood, example = make(name, kind)
    likelihood.eval()
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
        parts = zip(*(grid.split(200) for grid in grids), strict=True)
        drawn = [likelihood.sample(params.expand(len(part[0]), -1), *part).double() for part in parts]
    return torch.cat(drawn).numpy()


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


def grid(likelihood: Likelihood, data: ImageInput | TabularInput, drawn: Array) -> Array:
    """Points so far and so fine that the trapezoidal rule over them is exact to six digits."""
    if isinstance(likelihood, ContinuousBernoulli):
        assert isinstance(data, ImageInput)
        assert data.low <= drawn.min() < drawn.max() <= data.high
        return np.linspace(data.low, data.high, 10_001)
    reach = np.ptp(drawn)
    return np.linspace(drawn.min() - 2 * reach, drawn.max() + 2 * reach, 10_001)


def test_every_likelihood_takes_the_data_that_it_is_of() -> None:
    assert {name: {kind for likelihood, kind in ACCEPTED if likelihood == name} for name in LIKELIHOODS} == TAKES


@EVERY
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
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
            points = grid(likelihood, example.data, drawn[:, i])
            if isinstance(likelihood, MixedAsinh):
                # Equal steps of u: the tails are those of e^u.
                centre, width = np.median(drawn[:, i]), np.subtract(*np.quantile(drawn[:, i], [0.75, 0.25]))
                points = centre + width * np.sinh(np.linspace(-12, 12, 50_001))
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
def test_the_log_likelihood_is_the_sum_over_features(name: str, kind: str) -> None:
    likelihood, example, _ = randomised(name, kind, 0)
    params = torch.randn(40, 3, likelihood.num_params, generator=torch.Generator().manual_seed(3)).requires_grad_()
    x = torch.from_numpy(example.rows[:40]).flatten(1)[:, None]
    found, expected = likelihood.log_likelihood(params, x), likelihood.log_prob(params, x).double().sum(-1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=2e-5)
    gradients = (torch.autograd.grad(values.sum(), params)[0] for values in (found, expected))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


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
    ("name", "kind"), [(name, kind) for name in TAKES for kind in KINDS if kind not in TAKES[name]]
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
    np.testing.assert_allclose(sigma(likelihood), spread, rtol=0.05)
    with torch.no_grad():
        likelihood.free_log_sigma.fill_(-50)
    np.testing.assert_allclose(sigma(likelihood), 0.01, rtol=1e-4)


def sigma(likelihood: GaussianFixed) -> Array:
    """In units of the scale, at decoder outputs of 0."""
    with torch.no_grad():
        return likelihood.normal(torch.zeros(likelihood.num_params))[1].exp().numpy()


INTEGERS = np.array([3.0, 4, 7, 12, np.nan, 4])


@pytest.mark.parametrize(
    ("column", "step"),
    [
        (INTEGERS, 1),
        (INTEGERS * 1e6, 1e6),
        (INTEGERS / 3 - 7, 1 / 3),
        (2 * INTEGERS, 2),
        (np.round(np.random.default_rng(0).standard_normal(500), 2), 0.01),
        ((1000 + np.arange(40) / 10).astype(np.float32), 0.1),
        (np.array([0.1 + 0.2, 0.3, 0.4]), 0.1),
        (np.array([0.0, 1.0, 2.5]), 0),
        (np.random.default_rng(0).standard_normal(500), 0),
        (np.random.default_rng(0).random(500).astype(np.float32), 0),
        (np.array([5.0, 5, np.nan]), 0),
        (np.array([np.nan, np.nan]), 0),
    ],
)
def test_resolution(column: Array, step: float) -> None:
    assert resolution(column.astype(np.float64)) == pytest.approx(step, rel=1e-2, abs=0)


PEAKS = dict.fromkeys(("gaussian", "gaussian_shared", "gaussian_heteroscedastic"), 1 / math.sqrt(2 * math.pi))
"""The greatest density of the likelihoods that have a floor, where σ is 1."""


def collapsed(name: str, data: ImageInput | TabularInput, rows: Array) -> tuple[Likelihood, Tensor]:
    """A likelihood that believes itself certain, and decoder outputs for the rows' own values."""
    likelihood = LIKELIHOODS[name](data, rows)
    assert isinstance(likelihood, GaussianFixed)
    x = torch.from_numpy(rows).flatten(1)
    params = ((x - likelihood.location) / likelihood.scale).nan_to_num().float()
    if likelihood.num_params > x.shape[1]:
        params = torch.cat([params, torch.full_like(params, -50)], -1)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.fill_(-50)
        likelihood.log_prob(params, x)
    return likelihood.eval(), params


@pytest.mark.parametrize("name", PEAKS)
def test_a_column_of_whole_numbers_cannot_be_worth_more_than_certainty(name: str) -> None:
    rng = np.random.default_rng(0)
    rare, counts = rng.random(80) < 0.05, rng.poisson(3, 80)
    rows = np.column_stack([rare, 250.0 * counts, rng.standard_normal(80)])
    likelihood, params = collapsed(name, KINDS["numbers"].data, rows)
    with torch.no_grad():
        density = likelihood.log_prob(params, torch.from_numpy(rows)).exp()
    np.testing.assert_allclose(density[:, 0], 1, rtol=1e-4)
    np.testing.assert_allclose(density[:, 1], 1 / 250, rtol=1e-4)
    np.testing.assert_allclose(density[:, 2], PEAKS[name] / (0.01 * rows[:, 2].std()), rtol=1e-4)


@pytest.mark.parametrize("name", PEAKS)
@pytest.mark.parametrize(
    ("kind", "step"),
    [("binary image", 1), ("grey levels", 1 / 16), ("colour levels", 1 / 255), ("continuous image", 0)],
)
def test_an_image_of_few_levels_cannot_either(name: str, kind: str, step: float) -> None:
    example = KINDS[kind]
    likelihood, params = collapsed(name, example.data, example.rows)
    assert isinstance(example.data, ImageInput)
    with torch.no_grad():
        density = likelihood.log_prob(params, torch.from_numpy(example.rows).flatten(1)).exp()
    scale = example.data.high - example.data.low
    np.testing.assert_allclose(density, 1 / (max(step, 0.01 / PEAKS[name]) * scale), rtol=1e-3)


def test_a_constant_column_has_a_finite_density() -> None:
    example = KINDS["numbers"]
    rows = example.rows.copy()
    rows[:, 1] = 3.5
    likelihood = Gaussian(example.data, rows)
    log_prob = likelihood.log_prob(torch.zeros(80, 3), torch.from_numpy(rows))
    assert log_prob.isfinite().all()
    assert likelihood.mean(torch.zeros(3))[1] == pytest.approx(3.5)


def test_the_continuous_bernoulli_is_its_formula_on_both_sides_of_a_half() -> None:
    likelihood, _ = make("continuous_bernoulli", "continuous image")
    for logit in (0.0, 1e-6, 1e-3, 0.0099, 0.0101, 0.3, 0.9999, 1.0001, 7.0, 45.0, 300.0):
        for eta in (logit, -logit):
            params, top = torch.full((3, 6), eta), float(eta > 0)
            y = torch.tensor([0.0, 0.3, 1.0])[:, None].expand(3, 6)
            # ∫ e^{ηy} dy over [0, 1], by a Gauss-Legendre rule; for η > 0 over e^η, which could overflow.
            points, weights = special.roots_legendre(200)
            points, weights = (points + 1) / 2, weights / 2
            mass = weights * np.exp(eta * (points - top))
            log_prob = eta * (y.double() - top) - math.log(mass.sum()) - math.log(4)
            torch.testing.assert_close(likelihood.log_prob(params, 4 * y - 1).double(), log_prob, rtol=2e-6, atol=2e-6)
            mean = -1 + 4 * (mass @ points) / mass.sum()
            np.testing.assert_allclose(likelihood.mean(params), mean, atol=4e-6)
            for v in (1e-7, 0.2, 0.999):
                drawn = (likelihood.sample(params, params, torch.full((3, 6), v)) + 1) / 4
                below = np.log1p((1 - v if eta > 0 else v) * np.expm1(-abs(eta))) / -abs(eta) if eta else v
                exact = 1 - below if eta > 0 else below
                np.testing.assert_allclose(drawn, exact, atol=1e-4)
            params.requires_grad_()
            (slope,) = torch.autograd.grad(likelihood.log_prob(params, 4 * y - 1).sum(), params)
            np.testing.assert_allclose(slope, y - (mean + 1) / 4, atol=2e-5)


def test_mixed_has_the_categorical_for_its_categories() -> None:
    mixed, example = make("mixed", "categories")
    categorical = Categorical(example.data, example.rows)
    params = torch.randn(80, categorical.num_params, generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(example.rows)
    assert torch.equal(mixed.log_prob(params, x), categorical.log_prob(params, x))
    expected = torch.distributions.Categorical(logits=params[:, :3])
    observed = ~x[:, 0].isnan()
    torch.testing.assert_close(
        categorical.log_prob(params, x)[observed, 0], expected.log_prob(x[:, 0].nan_to_num().long())[observed]
    )


def test_the_extreme_levels_hold_the_tails() -> None:
    likelihood, _ = make("discretized_logistic", "colour levels")
    params = torch.cat([torch.full((105,), -60.0), torch.full((105,), -60.0)])
    black, white = torch.zeros(1, 105), torch.full((1, 105), 255.0)
    torch.testing.assert_close(likelihood.log_prob(params, black), torch.zeros(1, 105), rtol=0, atol=0.5)
    assert likelihood.log_prob(params, white).isfinite().all()
    assert (likelihood.log_prob(params, white) < -500).all()
