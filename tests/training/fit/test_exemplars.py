"""The second stage of the prior: training rows' posteriors, smoothed as held-out rows like it."""

from pathlib import Path

import numpy as np
import torch
from scipy import special, stats

from service.bundle import NumericColumn, TabularInput
from service.scoring import noise
from training.fit import FitRecipe
from training.fit.exemplars import GROUPED, SHARPER, WIDTHS, exemplar_prior
from training.fit.loop import fit
from training.model import VAE, ModelRecipe
from training.model.build import build

DATA = TabularInput(columns=tuple(NumericColumn(name=name) for name in "abc"))
RECIPE = ModelRecipe(widths=(16,), latent_size=2, likelihood="mixed_asinh", prior="mixture", components=4)


def rows(count: int, seed: int) -> torch.Tensor:
    """Three groups of rows on a ring, and noise."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, count)
    ring = np.stack([np.sin(2.1 * group), np.cos(2.1 * group), group], 1)
    return torch.from_numpy(5 * ring + 0.3 * rng.standard_normal((count, 3)))


def trained(folder: Path, exemplars: int) -> VAE:
    train, held_out = rows(300, 0), rows(80, 1)
    vae = build(RECIPE, DATA, train.numpy(), seed=0)
    base_samples = torch.from_numpy(noise.base_samples(0, 16, 2))
    fit(
        vae,
        train,
        held_out,
        base_samples,
        FitRecipe(steps=300, batch_size=64, learning_rate=5e-3, exemplars=exemplars),
        folder,
    )
    return vae


def test_the_prior_becomes_smoothed_posteriors_and_other_rows_gain(tmp_path: Path) -> None:
    before, after = (trained(tmp_path / str(number), number).requires_grad_(False) for number in (0, 1000))
    new, base_samples = rows(400, 2), torch.from_numpy(noise.base_samples(0, 64, 2))
    gain = after.bounds(new, base_samples).elbo.mean() - before.bounds(new, base_samples).elbo.mean()
    assert gain > 0.05
    # The networks are the same; and every training row is a component, in some order.
    mean, log_variance = after.posterior(rows(300, 0))
    prior = after.prior
    assert len(prior.means) == 300
    added = np.sort(prior.log_variances.double().exp().numpy(), 0) - np.sort(log_variance.double().exp().numpy(), 0)
    width = np.sqrt(added.mean())
    # A width that is not made sharper is 1 % off one that is.
    assert min(abs(width / (SHARPER * each) - 1) for each in WIDTHS) < 3e-3
    z = 2 * torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double()
    deviations = np.sqrt(np.exp(log_variance.double().numpy()) + width**2)
    by_row = stats.norm(mean.double().numpy(), deviations).logpdf(z.numpy()[:, None]).sum(-1)
    expected = special.logsumexp(by_row, axis=1) - np.log(300)
    np.testing.assert_allclose(prior.log_prob(z), expected, rtol=1e-4, atol=1e-3)


def test_fewer_exemplars_than_rows_are_drawn_by_the_seed() -> None:
    train, held_out = rows(200, 0), rows(50, 1)
    vae = build(RECIPE, DATA, train.numpy(), seed=0)
    base_samples = torch.from_numpy(noise.base_samples(0, 16, 2))
    number = 1 + len(train) // GROUPED
    first, again, other = (exemplar_prior(vae, train, held_out, base_samples, number, seed) for seed in (0, 0, 1))
    assert first.means.shape == (number, 2)
    assert torch.equal(first.means, again.means)
    assert not torch.equal(first.means, other.means)


def test_of_many_rows_components_are_groups_that_keep_the_moments_of_all() -> None:
    train, held_out = rows(GROUPED * 50, 0), rows(50, 1)
    train[:20] = train[0]  # Centres may begin at the same place, and their groups are then one.
    vae = build(RECIPE, DATA, train.numpy(), seed=0).requires_grad_(False)
    prior = exemplar_prior(vae, train, held_out, torch.from_numpy(noise.base_samples(0, 16, 2)), 50, seed=0)
    assert 30 < len(prior.means) <= 50
    mean, log_variance = vae.posterior(train)
    weights = torch.softmax(prior.logits, 0)[:, None]
    average = (weights * prior.means).sum(0)
    torch.testing.assert_close(average, mean.mean(0), rtol=0, atol=1e-5)
    second = (weights * (prior.means**2 + prior.log_variances.exp())).sum(0)
    added = second - (mean**2 + log_variance.exp()).mean(0)
    # All that is added to the second moments is h².
    assert min(abs(added.sqrt() / (SHARPER * width) - 1).max() for width in WIDTHS) < 3e-3
