"""The bounds, held to a reimplementation in NumPy and SciPy: one row and one draw at a time, from the definitions."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from service.bundle import CategoricalColumn, NumericColumn, TabularInput
from service.scoring import noise
from tests.training.kinds import KINDS
from training.model import VAE, ModelRecipe
from training.model.build import build
from training.model.likelihoods.gaussian import GaussianFixed
from training.model.likelihoods.mixed import Mixed
from training.model.vae import LOG_VARIANCE_RANGE, Bounds

L = 3
KINDS_AND_LIKELIHOODS = [
    ("numbers", "gaussian"),
    ("mixed table", "mixed"),
    ("grey levels", "gaussian_shared"),
    ("binary image", "bernoulli"),
]


def random_vae(kind: str, name: str) -> VAE:
    example = KINDS[kind]
    model = build(ModelRecipe(widths=(6,), latent_size=L, likelihood=name), example.data, example.rows, seed=3).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.5)
    return model


@pytest.mark.parametrize(("columns", "expected"), [(1, 2), (2, 2), (3, 3), (4, 3), (5, 4), (40, 16)])
def test_the_latent_size_follows_from_the_features(columns: int, expected: int) -> None:
    data = TabularInput(columns=tuple(NumericColumn(name=f"x{i}") for i in range(columns)))
    rows = np.random.default_rng(0).normal(size=(50, columns))
    assert build(ModelRecipe(latent_size=None, likelihood="gaussian"), data, rows, 0).prior.latent_size == expected


def naive_log_prob(model: VAE, kind: str, params: Any, row: Any) -> float:
    """Log p(x|z), one feature after the other."""
    likelihood, data = model.likelihood, KINDS[kind].data
    if data.kind == "image" and not isinstance(likelihood, GaussianFixed):
        return float(
            sum(stats.bernoulli(1 / (1 + np.exp(-p))).logpmf(int(v)) for p, v in zip(params, row, strict=True))
        )
    total, used = 0.0, 0
    gaussian: Any = likelihood.kinds[0] if isinstance(likelihood, Mixed) else likelihood
    columns = list(data.columns) if data.kind == "tabular" else [None] * len(row)
    numeric = [i for i, column in enumerate(columns) if not isinstance(column, CategoricalColumn)]
    sigmas = np.broadcast_to(gaussian.normal(torch.zeros(gaussian.num_params))[1].exp().detach().numpy(), len(numeric))
    for place, i in enumerate(numeric):
        used += 1
        if not np.isnan(row[i]):
            location, scale = float(gaussian.location[place]), float(gaussian.scale[place])
            total += stats.norm(location + scale * params[place], scale * sigmas[place]).logpdf(row[i])
    for i, column in enumerate(columns):
        if isinstance(column, CategoricalColumn):
            size = len(column.categories)
            logits = params[used : used + size]
            used += size
            if not np.isnan(row[i]):
                total += np.log(np.exp(logits[int(row[i])]) / np.exp(logits).sum())
    assert used == len(params)
    return total


@pytest.mark.parametrize(("kind", "name"), KINDS_AND_LIKELIHOODS)
@pytest.mark.parametrize("num_draws", [1, 2, 9])
@torch.no_grad()
def test_bounds_from_their_definitions(kind: str, name: str, num_draws: int) -> None:
    model, x = random_vae(kind, name), KINDS[kind].rows[:5]
    base_samples = noise.base_samples(1, num_draws, L)
    bounds = Bounds(*(values.numpy() for values in model.bounds(torch.from_numpy(x), torch.from_numpy(base_samples))))
    for i, row in enumerate(x):
        mean, log_variance = (tensor[0].double().numpy() for tensor in model.posterior(torch.from_numpy(row[None])))
        posterior = stats.norm(mean, np.exp(0.5 * log_variance))
        log_likelihood, log_weight = np.empty((2, num_draws))
        for k in range(num_draws):
            z = mean + np.exp(0.5 * log_variance) * base_samples[k]
            params = model.decoder(torch.from_numpy(z[None]).float())[0].double().numpy()
            log_likelihood[k] = naive_log_prob(model, kind, params, row.ravel().astype(np.float64))
            log_weight[k] = log_likelihood[k] + stats.norm.logpdf(z).sum() - posterior.logpdf(z).sum()
        kl = torch.distributions.kl_divergence(
            torch.distributions.Normal(torch.tensor(mean), torch.tensor(np.exp(0.5 * log_variance))),
            torch.distributions.Normal(0.0, 1.0),
        ).sum()
        weight = np.exp(log_weight - log_weight.max())
        near = {"rel": 2e-5, "abs": 2e-4}
        assert bounds.log_likelihood[i] == pytest.approx(log_likelihood.mean(), **near)
        assert bounds.kl[i] == pytest.approx(kl.item(), rel=1e-6)
        assert bounds.elbo[i] == pytest.approx(log_likelihood.mean() - kl.item(), **near)
        assert bounds.log_evidence[i] == pytest.approx(np.log(np.mean(weight)) + log_weight.max(), **near)
        assert bounds.ess[i] == pytest.approx(weight.sum() ** 2 / (weight**2).sum() / num_draws, rel=2e-3)
        assert bounds.log_evidence[i] >= log_weight.mean() - 1e-3
        if num_draws == 1:
            assert np.isnan(bounds.standard_error[i])
            assert bounds.ess[i] == 1
        else:
            expected = log_likelihood.std(ddof=1) / np.sqrt(num_draws)
            assert bounds.standard_error[i] == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(("kind", "name"), KINDS_AND_LIKELIHOODS)
@torch.no_grad()
def test_bounds_are_finite_in_order_and_in_range(kind: str, name: str) -> None:
    model, x = random_vae(kind, name), torch.from_numpy(KINDS[kind].rows)
    draws = 512
    bounds = model.bounds(x, torch.from_numpy(noise.base_samples(0, draws, L)))
    for field, values in bounds._asdict().items():
        assert values.shape == (80,), field
        assert values.dtype == torch.float64, field
        assert values.isfinite().all(), field
    assert (bounds.kl >= 0).all()
    assert (bounds.elbo == bounds.log_likelihood - bounds.kl).all()
    # Between them lies KL(q ‖ p(z|x)), and the error of the mean over the draws.
    assert (bounds.elbo <= bounds.log_evidence + 3 * bounds.standard_error).all()
    assert (bounds.ess >= 1 / draws).all()
    assert (bounds.ess <= 1).all()
    assert bounds.ess.min() < 0.9


@torch.no_grad()
def test_extreme_weights_do_not_overflow() -> None:
    model = random_vae("numbers", "gaussian")
    x = torch.from_numpy(1e5 * np.ones((2, 3)))
    bounds = model.bounds(x, torch.from_numpy(noise.base_samples(0, 8, L)))
    assert (bounds.elbo < -1e4).all()
    assert all(values.isfinite().all() for values in bounds)


@torch.no_grad()
def test_noise_may_be_shared_or_each_row_s_own() -> None:
    model, x = random_vae("numbers", "gaussian"), torch.from_numpy(KINDS["numbers"].rows[:4])
    base_samples = torch.randn(6, L, generator=torch.Generator().manual_seed(0))
    for shared, own in zip(model.bounds(x, base_samples), model.bounds(x, base_samples.expand(4, 6, L)), strict=True):
        torch.testing.assert_close(shared, own)


@torch.no_grad()
def test_the_posterior_s_width_is_bounded() -> None:
    model, x = random_vae("numbers", "gaussian"), torch.from_numpy(KINDS["numbers"].rows[:4])
    last = model.encoder[-1]
    for extreme, bound in ((-1e4, LOG_VARIANCE_RANGE[0]), (1e4, LOG_VARIANCE_RANGE[1])):
        last.bias[L:] = extreme
        assert (model.posterior(x)[1] == bound).all()
        assert all(values.isfinite().all() for values in model.bounds(x, torch.zeros(2, L)))
