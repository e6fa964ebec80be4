"""Every registered prior is a density, and its KL is the divergence from that density."""

import math

import pytest
import torch
from scipy import stats

from training.priors import PRIORS, StandardNormal

L = 3


@pytest.mark.parametrize("name", PRIORS)
@torch.no_grad()
def test_kl_is_the_expected_log_ratio(name: str) -> None:
    torch.manual_seed(0)
    prior = PRIORS[name](L)
    mean = torch.tensor([[0.0, 0.0, 0.0], [1.5, -0.5, 3.0], [0.1, 0.2, -4.0]]).double()
    log_variance = torch.tensor([[0.0, 0.0, 0.0], [-1.0, 0.7, -6.0], [2.0, -3.0, 0.1]]).double()
    draws = 200_000
    posterior = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    z = posterior.sample((draws,))
    log_ratio = posterior.log_prob(z).sum(-1) - prior.log_prob(z)
    kl = prior.kl(mean, log_variance)
    assert kl.shape == (3, L)
    error = (kl.sum(-1) - log_ratio.mean(0)).abs()
    assert (error <= 4 * log_ratio.std(0) / math.sqrt(draws) + 1e-9).all()


@pytest.mark.parametrize("name", PRIORS)
@torch.no_grad()
def test_integrates_to_one(name: str) -> None:
    prior = PRIORS[name](2)
    points = torch.linspace(-12, 12, 601).double()
    density = prior.log_prob(torch.cartesian_prod(points, points)).exp().reshape(601, 601)
    assert torch.trapezoid(torch.trapezoid(density, points), points).item() == pytest.approx(1, abs=1e-6)


def test_standard_normal() -> None:
    z = 3 * torch.randn(5, 2, L, generator=torch.Generator().manual_seed(0)).double()
    prior = StandardNormal(L)
    expected = stats.multivariate_normal(cov=torch.eye(L)).logpdf(z.numpy())
    torch.testing.assert_close(prior.log_prob(z), torch.from_numpy(expected))
    assert (prior.kl(torch.zeros(4, L), torch.zeros(4, L)) == 0).all()
    # KL(N(m, v) ‖ N(0, 1)) at one point, worked out by hand.
    kl = prior.kl(torch.tensor([2.0]), torch.tensor([math.log(0.25)]))
    assert kl.item() == pytest.approx(0.5 * (4 + 0.25 - 1 + math.log(4)), rel=1e-6)
