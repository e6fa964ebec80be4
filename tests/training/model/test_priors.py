"""Every registered prior is a density, and its KL is the divergence from that density."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from service.scoring import noise
from training.model import PRIORS
from training.model.priors import Mixture, Prior, StandardNormal
from training.model.vae import log_normal

L = 3
NO_DRAWS = torch.empty(0)


def made(name: str, latent_size: int) -> Prior:
    """A prior with random parameters."""
    prior = PRIORS[name](latent_size, 4)
    for parameter in prior.parameters():
        parameter.data += torch.randn(parameter.shape)
    return prior


@pytest.mark.parametrize("name", PRIORS)
@torch.no_grad()
def test_kl_is_the_expected_log_ratio(name: str) -> None:
    torch.manual_seed(0)
    prior = made(name, L)
    mean = torch.tensor([[0.0, 0.0, 0.0], [1.5, -0.5, 3.0], [0.1, 0.2, -4.0]]).double()
    log_variance = torch.tensor([[0.0, 0.0, 0.0], [-1.0, 0.7, -6.0], [2.0, -3.0, 0.1]]).double()
    draws = 200_000
    posterior = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    z = posterior.sample((draws,))
    log_ratio = posterior.log_prob(z).sum(-1) - prior.log_prob(z)
    few = noise.base_samples(1, 4096, L)
    drawn = mean[:, None] + torch.exp(0.5 * log_variance)[:, None] * torch.from_numpy(few).double()
    kl = prior.kl(mean, log_variance, drawn, log_normal(torch.from_numpy(few).double(), log_variance))
    assert kl.shape == (3, L)
    error = (kl.sum(-1) - log_ratio.mean(0)).abs()
    assert (error <= 5 * log_ratio.std(0) * (1 / math.sqrt(draws) + 1 / len(few)) + 1e-9).all()


@pytest.mark.parametrize("name", PRIORS)
@torch.no_grad()
def test_integrates_to_one(name: str) -> None:
    prior = made(name, 2)
    points = torch.linspace(-12, 12, 601).double()
    density = prior.log_prob(torch.cartesian_prod(points, points)).exp().reshape(601, 601)
    assert torch.trapezoid(torch.trapezoid(density, points), points).item() == pytest.approx(1, abs=1e-6)


def test_standard_normal() -> None:
    z = 3 * torch.randn(5, 2, L, generator=torch.Generator().manual_seed(0)).double()
    prior = StandardNormal(L, 1)
    expected = stats.multivariate_normal(cov=torch.eye(L)).logpdf(z.numpy())
    torch.testing.assert_close(prior.log_prob(z), torch.from_numpy(expected))
    assert (prior.kl(torch.zeros(4, L), torch.zeros(4, L), NO_DRAWS, NO_DRAWS) == 0).all()
    # KL(N(m, v) ‖ N(0, 1)) at one point, worked out by hand.
    kl = prior.kl(torch.tensor([2.0]), torch.tensor([math.log(0.25)]), NO_DRAWS, NO_DRAWS)
    assert kl.item() == pytest.approx(0.5 * (4 + 0.25 - 1 + math.log(4)), rel=1e-6)


@torch.no_grad()
def test_mixture_is_the_mixture_of_its_components() -> None:
    torch.manual_seed(1)
    prior = made("mixture", L)
    assert isinstance(prior, Mixture)
    z = 2 * torch.randn(5, 2, L)
    weights, deviations = torch.softmax(prior.logits, 0), torch.exp(0.5 * prior.log_variances)
    density = sum(
        float(weight) * stats.multivariate_normal(mean.numpy(), torch.diag(deviation**2).numpy()).pdf(z.numpy())
        for weight, mean, deviation in zip(weights, prior.means, deviations, strict=True)
    )
    torch.testing.assert_close(prior.log_prob(z).numpy(), np.log(density), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_a_mixture_of_one_standard_normal_is_the_standard_normal_latent_by_latent() -> None:
    prior = Mixture(L, 3)
    prior.means.zero_()
    z = torch.randn(7, L)
    torch.testing.assert_close(prior.latent_log_prob(z), StandardNormal(L, 1).latent_log_prob(z.double()))


@pytest.mark.parametrize("name", PRIORS)
@torch.no_grad()
def test_draws_have_the_density(name: str) -> None:
    """The share of draws in boxes, against the density's integral over the same boxes."""
    torch.manual_seed(2)
    prior = made(name, 2)
    rng = torch.Generator().manual_seed(0)
    z = prior.sample(torch.randn(100_000, 2, generator=rng), torch.rand(100_000, 1, generator=rng))
    edges = np.linspace(-6, 6, 13)
    found, *_ = np.histogram2d(*z.numpy().T, bins=[edges, edges])
    fine = torch.linspace(-6 + 0.025, 6 - 0.025, 240).double()
    density = prior.log_prob(torch.cartesian_prod(fine, fine)).exp().reshape(12, 20, 12, 20).sum((1, 3)) * 0.05**2
    expected = 100_000 * density.numpy()
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected) + 10).all()
