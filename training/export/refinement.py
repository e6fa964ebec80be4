"""Refinement: variational inference for each row, from where the encoder leaves off.

An encoder shares its parameters among all rows, so it gives no row its best posterior (Cremer et al. 2018, the
amortisation gap). A step of Adam (Kingma and Ba 2015, algorithm 1) moves each row's own (μ, log σ²) up the gradient of
that row's K-draw ELBO (Kim et al. 2018). How much there is to gain is itself a score, the regret (Xiao et al. 2020).
"""

import torch
from torch import Tensor, nn

from training.model import VAE
from training.model.vae import LOG_VARIANCE_RANGE

LEARNING_RATE = 0.05
"""Adam's learning rate, in units of μ and of log σ²."""
BETAS = (0.9, 0.999)
EPSILON = 1e-3
"""In nats per unit. Adam's usual 1e-8 would move a latent on which nothing depends by the sign of rounding errors."""


class Refinement(nn.Module):
    """One step for every row, with the contract of `refine.onnx`."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        mean: Tensor,
        log_variance: Tensor,
        first_moment: Tensor,
        second_moment: Tensor,
        step: Tensor,
    ) -> tuple[Tensor, ...]:
        """The bounds at (mean, log_variance), and the state after a step up the ELBO's gradient.

        Args:
            x: (B, *shape).
            noise: ε of the ELBO, (K, L).
            mean: μ, (B, L).
            log_variance: Log σ², (B, L).
            first_moment: Adam's m, (B, 2L); zero at first.
            second_moment: Adam's v, (B, 2L); zero at first.
            step: Steps taken before this one, (B,).

        Returns:
            The six bounds, float64, (B,); then the next mean, log-variance, moments and step.
        """
        with torch.enable_grad():
            q = torch.cat([mean, log_variance], 1).detach().requires_grad_()
            bounds = self.vae.bounds_at(x, noise, *q.chunk(2, 1))
            (gradient,) = torch.autograd.grad(bounds.elbo.sum(), q)
        first_moment = BETAS[0] * first_moment + (1 - BETAS[0]) * gradient
        second_moment = BETAS[1] * second_moment + (1 - BETAS[1]) * gradient**2
        step = step + 1
        bias = [1 - torch.pow(decay, step)[:, None] for decay in BETAS]
        ascent = LEARNING_RATE * (first_moment / bias[0]) / (torch.sqrt(second_moment / bias[1]) + EPSILON)
        mean, log_variance = (q.detach() + ascent).chunk(2, 1)
        return (
            *(bound.detach() for bound in bounds),
            mean,
            log_variance.clamp(*LOG_VARIANCE_RANGE),
            first_moment,
            second_moment,
            step,
        )
