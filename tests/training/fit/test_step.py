"""One step: what it lowers, how far it goes, and what it says."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from scipy import stats

from tests.training.conftest import TRAIN, L, new_vae
from training.fit import FitRecipe
from training.fit.step import LIKELIHOOD_RATE_FACTOR, Objective, Step


def batch(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    noise = torch.randn(rows, 1, L, generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(TRAIN[:rows]), noise


@pytest.mark.parametrize(("free_bits", "kl_weight"), [(0.0, 1.0), (0.5, 1.0), (0.5, 0.3), (100.0, 0.3)])
@torch.no_grad()
def test_the_objective_is_its_formula(free_bits: float, kl_weight: float) -> None:
    vae, x = new_vae(), torch.from_numpy(TRAIN[:50])
    own_noise = torch.randn(50, 1, L, generator=torch.Generator().manual_seed(0))
    objective = Objective(vae, FitRecipe(free_bits=free_bits))
    loss, log_likelihood, kl = (float(value) for value in objective(x, own_noise, kl_weight))
    mean, log_variance = (tensor.double().numpy() for tensor in vae.posterior(x))
    by_latent = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).mean(0)
    z = mean + np.exp(0.5 * log_variance) * own_noise[:, 0].numpy()
    fields: Any = vae.likelihood
    params = vae.decoder(torch.from_numpy(z).float()).double().numpy()
    sigma = (fields.scale * fields.normal(torch.zeros(1))[1].exp()).numpy()
    residual = (TRAIN[:50] - fields.location.numpy() - fields.scale.numpy() * params) / sigma
    expected = (-0.5 * residual**2 - np.log(sigma) - 0.5 * math.log(2 * math.pi)).sum(1).mean()
    assert log_likelihood == pytest.approx(expected, rel=1e-5)
    assert kl == pytest.approx(by_latent.sum(), rel=1e-5)
    assert loss == pytest.approx(-expected + kl_weight * np.maximum(by_latent, free_bits).sum(), rel=1e-5)


@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
@torch.no_grad()
def test_the_importance_weighted_objective_is_its_formula(kl_weight: float) -> None:
    vae, x = new_vae(), torch.from_numpy(TRAIN[:50])
    own_noise = torch.randn(50, 6, L, generator=torch.Generator().manual_seed(0))
    recipe = FitRecipe(objective="importance_weighted", num_draws=6)
    loss, log_likelihood, _ = (float(value) for value in Objective(vae, recipe)(x, own_noise, kl_weight))
    if kl_weight == 1:
        assert loss == pytest.approx(-vae.bounds(x, own_noise).log_evidence.mean().item(), rel=1e-5)
    mean, log_variance = (tensor.double().numpy() for tensor in vae.posterior(x))
    deviation = np.exp(0.5 * log_variance)[:, None]
    z = mean[:, None] + deviation * own_noise.numpy()
    log_ratio = (stats.norm.logpdf(z) - stats.norm.logpdf(z, mean[:, None], deviation)).sum(-1)
    features = vae.feature_log_likelihood(x, torch.from_numpy(z).float()).sum(-1).double().numpy()
    expected = np.log(np.mean(np.exp(features + kl_weight * log_ratio), axis=1)).mean()
    assert loss == pytest.approx(-expected, rel=1e-5)
    assert log_likelihood == pytest.approx(features.mean(), rel=1e-5)


def test_a_step_says_sums_over_the_rows() -> None:
    x, own_noise = batch(30)
    recipe = FitRecipe(free_bits=0.1)
    with torch.no_grad():
        means = torch.stack(Objective(new_vae(), recipe)(x, own_noise, 0.5))
    sums = Step(new_vae(), recipe, Accelerator())(x, own_noise, 0.5, progress=0)
    torch.testing.assert_close(sums, 30 * torch.cat([means, torch.ones(1)]))


@pytest.mark.parametrize(
    ("schedule", "progress", "share"),
    [
        ("constant", 0.75, 1),
        ("cosine", 0, 1),
        ("cosine", 2 / 3, 1 / 4),
        ("cosine", 1, 0),
        ("cooldown", 0.5, 1),
        ("cooldown", 0.75, 1 / 2),
        ("cooldown", 1, 0),
    ],
)
def test_the_first_step_is_as_long_as_the_schedule_says(schedule: str, progress: float, share: float) -> None:
    """Adam's first step moves a weight by the learning rate, for any gradient."""
    vae = new_vae()
    before = {name: parameter.detach().clone() for name, parameter in vae.named_parameters()}
    rate = 1e-3
    recipe = FitRecipe.model_validate({"learning_rate": rate, "schedule": schedule})
    Step(vae, recipe, Accelerator())(*batch(100), kl_weight=1, progress=progress)
    for name, parameter in vae.named_parameters():
        pace = LIKELIHOOD_RATE_FACTOR if name.startswith("likelihood.") else 1
        assert (parameter - before[name]).abs().max().item() == pytest.approx(
            rate * pace * share, rel=1e-2, abs=1e-9
        ), name
