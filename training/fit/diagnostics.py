"""Information in the latents: diagnostics of posterior collapse, from the posteriors of held-out rows.

With q(z) = mean_n q(z|x_n) the aggregate posterior of N rows, the mean KL of the bound falls into two parts (Hoffman
and Johnson 2016, "ELBO surgery"):

    mean_n KL(q(z|x_n) ‖ p(z)) = I_q(x; z) + KL(q(z) ‖ p(z))

I_q, the mutual information, is what z tells of which row it came from: near 0 the decoder gets nothing. The marginal
KL is how far the rows' latents together are from the prior: what draws from the prior lack.
"""

from typing import Any

import torch
from torch import Tensor

from training.model.priors import Mixture
from training.model.vae import log_normal

ACTIVE = 0.01
"""Variance of the posterior mean over the rows above which a latent counts as active (Burda et al. 2016, 5.2)."""


def diagnose(mean: Tensor, log_variance: Tensor, noise: Tensor, latent_kl: Tensor) -> dict[str, Any]:
    """Every diagnostic of N rows, as an epoch has them.

    I_q is the mean of log q(z_n|x_n) − log q(z_n), each of which is at most log N, rather than the mean KL without an
    estimate of the marginal one: wherever the rows' posteriors are all alike, or all apart, the noise of z cancels.

    Args:
        mean: Of the posteriors, (N, L).
        log_variance: Of the posteriors, (N, L).
        noise: Of one draw from each posterior, independent of one another, (N, L).
        latent_kl: KL(q ‖ p) of each row and latent, nats, (N, L).

    Returns:
        `active_units`, how many latents are active; `mutual_information`, an estimate of I_q(x; z), nats;
        `marginal_kl`, an estimate of KL(q(z) ‖ p(z)), nats. The information is at most log N: near that it says only
        that the rows are told apart, more rows would raise it, and the marginal KL is too large by as much.
    """
    z = mean.double() + torch.exp(0.5 * log_variance.double()) * noise.double()
    own = log_normal(noise.double()[:, None], log_variance.double()).sum((1, 2))
    information = (own - Mixture.of(mean, log_variance).log_prob(z)).mean().item()
    return {
        "active_units": int((mean.double().var(0, correction=0) > ACTIVE).sum()),
        "mutual_information": information,
        "marginal_kl": latent_kl.double().sum(-1).mean().item() - information,
    }
