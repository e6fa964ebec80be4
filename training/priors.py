"""Priors p(z): one class each.

This module must not know about data, networks or likelihoods.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Prior(nn.Module, ABC):
    """p(z) over latents of shape (..., L).

    Args:
        latent_size: L.
    """

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.latent_size = latent_size

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log p(z) in nats, shape (...)."""

    @abstractmethod
    def kl(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """KL(N(mean, diag exp(log_variance)) ‖ p) in nats for each latent, shape (..., L)."""


class StandardNormal(Prior):
    """N(0, I)."""

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * (z**2 + math.log(2 * math.pi)).sum(-1)

    def kl(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Kingma and Welling 2014, appendix B."""
        return 0.5 * (mean**2 + torch.exp(log_variance) - 1 - log_variance)


PRIORS: dict[str, type[Prior]] = {"standard_normal": StandardNormal}
