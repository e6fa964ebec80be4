"""A second stage for the prior: once the networks are trained, it becomes what the encoder makes of training rows."""

import torch
from torch import Tensor

from training.fit.options import FitRecipe
from training.fit.rows import TrainingRows, take
from training.model import VAE
from training.model.priors import Mixture

WIDTHS = tuple(0.05 * 2 ** (i / 2) for i in range(10))
"""The widths h that are tried, in latent units: 0.05 to 1.13, about the scale of N(0, I)."""

DRAWS = 8
"""Of each held-out row that choose the width; beyond them rows differ, not draws."""

SHARPER = 0.35
"""The width in use over the width of the highest held-out ELBO.

The ELBO goes by the mean of log p(z), which a few far rows decide. With a third of that width the prior told anomalies
from normal rows better on the tables that it was chosen on, and its density is as exact.
"""

MOST_ROWS = 2000
"""Held-out rows that choose the width."""

CHUNK = 256
"""Rows that are computed at once."""

GROUPED = 4
"""Training rows for each component from which components are groups of rows: with fewer, single rows detect better."""

MOST_GROUPED = 2**16
"""Training rows that are grouped: more would hardly move a thousand groups."""

ROUNDS = 10
"""Rounds of Lloyd's algorithm: each moves the groups less than the one before."""


def set_exemplars(vae: VAE, train: TrainingRows, held_out: Tensor, base_samples: Tensor, recipe: FitRecipe) -> None:
    """Put the prior of `exemplar_prior` into a trained VAE, where the recipe asks for exemplars."""
    if recipe.exemplars:
        vae.prior = exemplar_prior(vae, train, held_out, base_samples, recipe.exemplars, recipe.seed)


@torch.no_grad()
def exemplar_prior(
    vae: VAE, train: TrainingRows, held_out: Tensor, base_samples: Tensor, number: int, seed: int
) -> Mixture:
    """The mixture of training rows' posteriors, each widened by h.

        p(z) = 1/M Σ_m N(z; μ(x_m), diag(σ²(x_m) + h²))

    For h = 0 it is the aggregate posterior, under which the ELBO is highest for given networks (Tomczak and Welling
    2018, eq. 8; as a second stage: Dai and Wipf 2019); with real rows for components it is the prior of Norouzi et al.
    2020, "Exemplar VAE". Of few rows it is too sharp, so that h smooths it: by `SHARPER` times the width of `WIDTHS`
    under which held-out rows have the highest ELBO, of which only the mean of log p(z) depends on h.

    A thousand of very many rows leave gaps between them. From `GROUPED` rows for each component on, the components are
    therefore groups of rows: see `_groups`.

    Args:
        vae: Trained.
        train: Training rows.
        held_out: Raw rows that have not trained, (n, *shape).
        base_samples: Noise of the held-out bound, (K, L).
        number: M; no more than there are training rows.
        seed: Of the choice of rows.
    """
    device = next(vae.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    grouped = len(train) >= GROUPED * number
    chosen = torch.randperm(len(train), generator=generator, device=device)[: MOST_GROUPED if grouped else number]
    posteriors = [vae.posterior(take(train, part, slice(None), generator).to(device)) for part in chosen.split(CHUNK)]
    mean, log_variance = (torch.cat(parts) for parts in zip(*posteriors, strict=True))
    mean, variance, weights = _groups(mean, log_variance.exp(), number) if grouped else (mean, log_variance.exp(), None)
    noise = base_samples[:DRAWS].to(device)
    z = torch.cat([vae.draws(*vae.posterior(x.to(device)), noise) for x in held_out[:MOST_ROWS].split(CHUNK)])

    def prior(width: float) -> Mixture:
        return Mixture.of(mean, torch.log(variance + width**2), weights)

    def held_out_log_prob(width: float) -> float:
        candidate = prior(width)
        return sum(candidate.log_prob(part).sum().item() for part in z.split(CHUNK))

    return prior(SHARPER * max(WIDTHS, key=held_out_log_prob))


def _groups(mean: Tensor, variance: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Posteriors N(μ, diag σ²), both (N, L), as at most so many groups of them: means, variances, (M, L), and shares.

    k-means divides them by μ (Lloyd 1982). A group's Gaussian has the mean and the variances of the mixture of its
    posteriors, and its share of the rows as weight, so that the mixture keeps the moments of the aggregate posterior.
    """
    centres = mean[:number]
    for _ in range(ROUNDS):
        group = torch.cat([torch.cdist(part, centres).argmin(1) for part in mean.split(CHUNK)])
        _, group, count = group.unique(return_inverse=True, return_counts=True)  # Empty groups go.
        centres = _mean_of_groups(mean, group, count)
    spread = _mean_of_groups(variance + (mean - centres[group]) ** 2, group, count)
    return centres, spread, count / len(mean)


def _mean_of_groups(values: Tensor, group: Tensor, count: Tensor) -> Tensor:
    sums = values.new_zeros(len(count), values.shape[1]).index_add_(0, group, values)
    return sums / count[:, None]
