"""Information in the latents: diagnostics of posterior collapse, from the posteriors of held-out rows.

With q(z) = mean_n q(z|x_n) the aggregate posterior of N rows, the mean KL of the bound falls into two parts (Hoffman
and Johnson 2016, "ELBO surgery"):

    mean_n KL(q(z|x_n) ‖ p(z)) = I_q(x; z) + KL(q(z) ‖ p(z))

I_q, the mutual information, is what z tells of which row it came from: near 0 the decoder gets nothing. The marginal
KL is how far the rows' latents together are from the prior: what draws from the prior lack.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)

ACTIVE = 0.01
"""Variance of the posterior mean over the rows above which a latent counts as active (Burda et al. 2016, 5.2)."""

_BLOCK = 2**22
"""Densities, draws × rows, that are held at once."""


@dataclass(frozen=True)
class Diagnostics:
    """Of N rows and L latents.

    Attributes:
        active_units: How many latents are active.
        latent_kl: Mean KL(q(z_l|x) ‖ p) of each latent, nats, L numbers.
        mutual_information: An estimate of I_q(x; z), nats. It is at most log N: near that it says only that the rows
            are told apart, and more rows would raise it.
        marginal_kl: An estimate of KL(q(z) ‖ p(z)), nats: the sum of `latent_kl` without the mutual information. Where
            that is held down by log N, this is too large by as much.
    """

    active_units: int
    latent_kl: tuple[float, ...]
    mutual_information: float
    marginal_kl: float


def diagnose(mean: Tensor, log_variance: Tensor, z: Tensor, latent_kl: Tensor) -> Diagnostics:
    """Every diagnostic of these rows.

    I_q is the mean of log q(z_n|x_n) − log q(z_n), each of which is at most log N, rather than the mean KL without an
    estimate of the marginal one: wherever the rows' posteriors are all alike, or all apart, the noise of z cancels.

    Args:
        mean: Of the posteriors, (N, L).
        log_variance: Of the posteriors, (N, L).
        z: One draw from each posterior, independent of one another, (N, L).
        latent_kl: KL(q ‖ p) of each row and latent, nats, (N, L).
    """
    squares = (z.double() - mean.double()) ** 2 * torch.exp(-log_variance.double())
    own = -0.5 * (squares + log_variance.double() + LOG_2PI).sum(-1)
    information = (own - log_aggregate_posterior(z, mean, log_variance)).mean().item()
    by_latent = latent_kl.double().mean(0)
    return Diagnostics(active_units(mean), tuple(by_latent.tolist()), information, by_latent.sum().item() - information)


def active_units(mean: Tensor) -> int:
    """How many latents' posterior means, (N, L), vary over the rows by more than `ACTIVE`."""
    return int((mean.double().var(0, correction=0) > ACTIVE).sum())


def log_aggregate_posterior(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log mean_n N(z; mean_n, diag exp(log_variance_n)) in nats, float64, (M,).

    Args:
        z: Where, (M, L).
        mean: Of the posteriors, (N, L).
        log_variance: Of the posteriors, (N, L).
    """
    # log N(z; m, s²) = quadratic z² + linear z + constant: sums over the latents are then matrix products. They cancel
    # large numbers, hence float64.
    z, mean, log_variance = z.double(), mean.double(), log_variance.double()
    precision = torch.exp(-log_variance)
    quadratic, linear = -0.5 * precision, mean * precision
    constant = -0.5 * (mean**2 * precision + log_variance + LOG_2PI).sum(-1)
    densities = [
        torch.logsumexp(block**2 @ quadratic.T + block @ linear.T + constant, 1)
        for block in z.split(max(1, _BLOCK // len(mean)))
    ]
    return torch.cat(densities) - math.log(len(mean))
