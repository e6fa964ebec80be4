"""The variational autoencoder and its bounds, written once.

    z_k = μ(x) + σ(x) ε_k,  ε_k ~ N(0, I),  k = 1, ..., K         Kingma and Welling 2014, eq. 10
    elbo = mean_k log p(x|z_k) − KL(q(z|x) ‖ p(z))                eq. 3 there, its expectation as in eq. 7
    log w_k = log p(x|z_k) + log p(z_k) − log q(z_k|x)
    log_evidence = log mean_k w_k                                 Burda et al. 2016, eq. 8
    ess = (Σ_k w_k)² / (K Σ_k w_k²)                               Kong 1992
    standard_error = std_k log p(x|z_k) / √K

Everything is in nats, and log p(x) is the log-density of x in data units. Networks compute in float32; sums over
features, latents and draws in float64, since differences between bounds are what people look at.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.model.likelihoods import Likelihood
from training.model.priors import LOG_2PI, Prior

LOG_VARIANCE_RANGE = (-10.0, 4.0)
"""The range of log σ²: the bound is exact for any σ, but outside this range the gradient would be useless."""


class Bounds(NamedTuple):
    """What `/elbo` answers for each row: shape (B,), float64, nats; `ess` is a share of the draws, 1/K to 1.

    `standard_error` is no number for K = 1.
    """

    elbo: Tensor
    log_likelihood: Tensor
    kl: Tensor
    standard_error: Tensor
    log_evidence: Tensor
    ess: Tensor


class VAE(nn.Module):
    """q(z|x) = N(μ(x), diag σ²(x)), p(z), p(x|z).

    Args:
        features: x (B, *shape) → what the encoder sees (B, F).
        encoder: (B, F) → (B, 2L), mean and log-variance.
        decoder: (B, L) → (B, likelihood.num_params).
        likelihood: p(x|z).
        prior: p(z).
    """

    def __init__(
        self, features: nn.Module, encoder: nn.Module, decoder: nn.Module, likelihood: Likelihood, prior: Prior
    ) -> None:
        super().__init__()
        self.features = features
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.prior = prior

    def units(self, x: Tensor) -> Tensor:
        """One unit of scale of each value of instances like these, (..., D), in data units; broadcasts to them."""
        units: Tensor = self.features.units(x)  # type: ignore[operator]
        return units

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (B, L)."""
        mean, log_variance = self.encoder(self.features(x)).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)

    def draws(self, mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
        """Z = μ + σ ε, shape (B, K, L), for noise of shape (K, L), shared by all rows, or (B, K, L)."""
        return mean[:, None] + torch.exp(0.5 * log_variance)[:, None] * noise

    def feature_log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Log p(x_d|z) for each feature, shape (B, K, D), for z of shape (B, K, L)."""
        return self.likelihood.log_prob(self._params(z), x.flatten(1)[:, None])

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Log p(x|z), shape (B, K), float64, for z of shape (B, K, L)."""
        return self.likelihood.log_likelihood(self._params(z), x.flatten(1)[:, None])

    def _params(self, z: Tensor) -> Tensor:
        return self.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])

    def bounds(self, x: Tensor, noise: Tensor) -> Bounds:
        """Every bound for x (B, *shape), with draws made from `noise`, (K, L) or (B, K, L)."""
        return self.bounds_at(x, noise, *self.posterior(x))

    def bounds_at(self, x: Tensor, noise: Tensor, mean: Tensor, log_variance: Tensor) -> Bounds:
        """Every bound for x (B, *shape) at any q = N(mean, diag exp(log_variance)), both (B, L)."""
        z = self.draws(mean, log_variance, noise)
        log_likelihood = self.log_likelihood(x, z)  # (B, K): log p(x|z_k)
        log_prior = self.prior.log_prob(z.double())  # (B, K): log p(z_k)
        log_posterior = log_normal(noise.double(), log_variance.double()).sum(-1)  # (B, K): log q(z_k|x)
        log_weight = log_likelihood + log_prior - log_posterior

        kl = self.prior.total_kl(mean.double(), log_variance.double(), log_prior, log_posterior)
        # K, (B,), counted where the draws are: sizes are the CPU's, and ONNX Runtime would copy them to the GPU midway.
        num_draws = torch.ones_like(log_likelihood).sum(1)
        mean_log_likelihood = log_likelihood.sum(1) / num_draws  # The gradient of `mean` would take a size.
        variance = ((log_likelihood - mean_log_likelihood[:, None]) ** 2).mean(1)
        largest = log_weight.amax(1, keepdim=True)
        weight = torch.exp(log_weight - largest)
        mean_weight = weight.mean(1)
        return Bounds(
            elbo=mean_log_likelihood - kl,
            log_likelihood=mean_log_likelihood,
            kl=kl,
            standard_error=torch.sqrt(variance / (num_draws - 1)),
            log_evidence=largest.squeeze(1) + torch.log(mean_weight),
            ess=mean_weight**2 / (weight**2).mean(1),
        )

    def explanation(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of the bound of x: log-likelihood by feature (B, D) and KL by latent (B, L), float64, nats."""
        mean, log_variance = self.posterior(x)
        z = self.draws(mean, log_variance, noise)
        log_posterior = log_normal(noise.double(), log_variance.double())
        kl = self.prior.kl(mean.double(), log_variance.double(), z.double(), log_posterior)
        return self.feature_log_likelihood(x, z).double().mean(1), kl


def log_normal(noise: Tensor, log_variance: Tensor) -> Tensor:
    """Log N(μ + σ ε; μ, σ²) for each draw and latent, (B, K, L), from ε itself: (z − μ)/σ would lose digits.

    Args:
        noise: ε, (K, L) or (B, K, L).
        log_variance: Log σ², (B, L).
    """
    return -0.5 * (noise**2 + LOG_2PI + log_variance[:, None])
