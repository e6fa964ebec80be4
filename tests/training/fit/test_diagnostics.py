"""The diagnostics of posterior collapse, where the aggregate posterior is known."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from training.fit.diagnostics import diagnose

N = 4000


def posteriors(spread: list[float], variance: list[float], centre: float = 0.0, rows: int = N) -> tuple[Tensor, Tensor]:
    """Means N(centre, spread²) over the rows and constant variances: q(z) is N(centre, spread² + variance)."""
    normal = torch.randn(rows, len(spread), generator=torch.Generator().manual_seed(0))
    return centre + normal * torch.tensor(spread), torch.tensor(variance).log().expand(rows, -1)


def about(mean: Tensor, log_variance: Tensor) -> dict[str, Any]:
    """The diagnostics beside a standard normal prior."""
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    latent_kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
    return diagnose(mean, log_variance, noise, latent_kl)


@pytest.mark.parametrize("centre", [0.0, 0.7])
@pytest.mark.parametrize(
    ("spread", "variance"),
    [
        # The exact posterior of a linear Gaussian model: the latents together are the prior.
        ([math.sqrt(0.7), math.sqrt(0.4)], [0.3, 0.6]),
        ([1.2, 0.3], [0.4, 0.2]),
        ([2.0, 0.0], [0.5, 1.0]),
    ],
)
def test_a_linear_gaussian_model_has_its_information_and_divergence(
    spread: list[float], variance: list[float], centre: float
) -> None:
    found = about(*posteriors(spread, variance, centre))
    total = np.square(spread) + variance
    information = 0.5 * np.log(total / variance).sum()
    marginal = 0.5 * (total + centre**2 - 1 - np.log(total)).sum()
    assert found["mutual_information"] == pytest.approx(information, abs=0.03)
    assert found["marginal_kl"] == pytest.approx(marginal, abs=0.1)
    assert found["active_units"] == np.count_nonzero(spread)


def test_a_collapsed_posterior_carries_nothing() -> None:
    found = about(torch.zeros(100, 3), torch.zeros(100, 3))
    assert found["active_units"] == 0
    assert found["mutual_information"] == pytest.approx(0, abs=1e-12)
    assert found["marginal_kl"] == pytest.approx(0, abs=1e-12)


def test_information_is_at_most_that_of_telling_the_rows_apart() -> None:
    mean, log_variance = posteriors([1.0] * 8, [1e-4] * 8, rows=50)
    found = about(mean, log_variance)
    assert found["mutual_information"] == pytest.approx(math.log(50), abs=1e-7)
    assert found["marginal_kl"] > 30 - math.log(50)


def test_units_are_active_above_a_hundredth_of_variance() -> None:
    pattern = torch.tensor([1.0, -1.0] * 8)[:, None]
    mean = 5 + pattern * torch.tensor([0.0, 0.099, 0.101, 1.0])
    assert about(mean, torch.zeros_like(mean))["active_units"] == 2
