"""Priors p(z): one class each."""

import math
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)


class Prior(nn.Module, ABC):
    """p(z) over latents of shape (..., L).

    Args:
        latent_size: L.
        components: Of a mixture; a prior without components has no use for it.
    """

    def __init__(self, latent_size: int, components: int) -> None:
        super().__init__()
        self.latent_size = latent_size

    @abstractmethod
    def latent_log_prob(self, z: Tensor) -> Tensor:
        """Each latent's share of log p(z), in nats, shape (..., L): their sum is log p(z)."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Log p(z) in nats, shape (...)."""
        return self.latent_log_prob(z).sum(-1)

    @abstractmethod
    def sample(self, normal: Tensor, uniform: Tensor) -> Tensor:
        """Draws from p(z), shape (B, L), made from N(0, 1) noise (B, L) and open-interval uniform noise (B, 1)."""

    def kl(self, mean: Tensor, log_variance: Tensor, z: Tensor, log_posterior: Tensor) -> Tensor:
        """Each latent's share of KL(q ‖ p) in nats, shape (B, L): mean_k[log q(z_k) − log p(z_k)].

        Args:
            mean: Of q, (B, L).
            log_variance: Of q, (B, L).
            z: Draws from q, (B, K, L).
            log_posterior: Log q of each latent of each draw, (B, K, L).
        """
        return mean_of_draws(log_posterior - self.latent_log_prob(z))

    def total_kl(self, mean: Tensor, log_variance: Tensor, log_prior: Tensor, log_posterior: Tensor) -> Tensor:
        """KL(q ‖ p) in nats, shape (B,), from log p(z_k) and log q(z_k), both (B, K)."""
        return mean_of_draws(log_posterior - log_prior)


class StandardNormal(Prior):
    """N(0, I): log p(z_l) = −½ (z_l² + log 2π)."""

    def latent_log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * (z**2 + LOG_2PI)

    def sample(self, normal: Tensor, uniform: Tensor) -> Tensor:
        return normal

    def kl(self, mean: Tensor, log_variance: Tensor, z: Tensor, log_posterior: Tensor) -> Tensor:
        """In closed form, ½ (μ² + σ² − 1 − log σ²) (Kingma and Welling 2014, appendix B): the draws are not used."""
        return 0.5 * (mean**2 + torch.exp(log_variance) - 1 - log_variance)

    def total_kl(self, mean: Tensor, log_variance: Tensor, log_prior: Tensor, log_posterior: Tensor) -> Tensor:
        return self.kl(mean, log_variance, log_prior, log_posterior).sum(-1)


class Mixture(Prior):
    """Σ_c π_c N(m_c, diag s_c²), learned with the rest of the model: for normal data that comes in several kinds.

    The mixture of Gaussians that Tomczak and Welling 2018 hold the VampPrior against, here with weights of its own. The
    components are free; the VampPrior's are the posteriors of learned inputs.

    It has no closed KL, which is taken over the draws. With r_c the share of component c in p(z),

        log p(z) = Σ_c r_c [log π_c − log r_c + Σ_l log N(z_l; m_cl, s_cl²)],

    which says what each latent's share is; what belongs to the choice of the component is divided evenly.
    """

    def __init__(self, latent_size: int, components: int) -> None:
        super().__init__(latent_size, components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, latent_size))
        self.log_variances = nn.Parameter(torch.zeros(components, latent_size))

    @classmethod
    def of(cls, means: Tensor, log_variances: Tensor, weights: Tensor | None = None) -> Self:
        """The mixture of these components, each (C, L), with these weights, (C,), or else equal ones."""
        prior = cls(means.shape[1], len(means)).to(means.device)
        logits = torch.zeros(len(means)) if weights is None else weights.log()
        prior.load_state_dict({"logits": logits, "means": means, "log_variances": log_variances})
        return prior

    def latent_log_prob(self, z: Tensor) -> Tensor:
        squares_and_z, factors, log_weights = self._factors(z)
        joint = self._joint(squares_and_z, factors, log_weights)
        # Written out: ONNX Runtime's own log-softmax of float64 has another last bit for a single row.
        above = joint - joint.amax(-1, keepdim=True)
        log_shares = above - torch.log(torch.exp(above).sum(-1, keepdim=True))
        shares = torch.exp(log_shares)
        choice = (shares * (log_weights - log_shares)).sum(-1, keepdim=True)
        by_latent = torch.cat([squares_and_z, torch.ones_like(z.double())], -1) * _product(shares, factors)
        return by_latent.unflatten(-1, (3, self.latent_size)).sum(-2) + choice / self.latent_size

    def log_prob(self, z: Tensor) -> Tensor:
        # Without the latents' shares, which take longer than the rest.
        joint = self._joint(*self._factors(z))
        highest = joint.amax(-1)
        return highest + torch.log(torch.exp(joint - highest[..., None]).sum(-1))

    def _factors(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(z², z), (..., 2L), their factors and constants in log N(z_l; m_c, s_c²), (C, 3L), and log π_c, (C,)."""
        # log N(z_l; m, s²) = quadratic z_l² + linear z_l + constant: sums over latents and over components are then
        # matrix products. They cancel large numbers, hence float64.
        z = z.double()
        means, log_variances = self.means.double(), self.log_variances.double()
        precisions = torch.exp(-log_variances)
        quadratic, linear = -0.5 * precisions, means * precisions
        constant = -0.5 * (means**2 * precisions + log_variances + LOG_2PI)
        log_weights = torch.log_softmax(self.logits.double(), 0)
        return torch.cat([z**2, z], -1), torch.cat([quadratic, linear, constant], 1), log_weights

    def _joint(self, squares_and_z: Tensor, factors: Tensor, log_weights: Tensor) -> Tensor:
        """Log π_c N(z; m_c, s_c²), (..., C)."""
        varying, constant = factors.split([2 * self.latent_size, self.latent_size], 1)
        return _product(squares_and_z, varying.T) + (log_weights + constant.sum(1))

    def sample(self, normal: Tensor, uniform: Tensor) -> Tensor:
        # In float64, whose rounding no float32 draw comes near: ONNX Runtime adds up in another order than torch.
        bounds = torch.softmax(self.logits.double(), 0).cumsum(0)[:-1]
        chosen = (uniform > bounds).sum(1)  # (B,): the component whose stretch of [0, 1] the uniform draw lies in.
        return self.means[chosen] + torch.exp(0.5 * self.log_variances)[chosen] * normal


def mean_of_draws(values: Tensor) -> Tensor:
    """The mean over axis 1, of a number of draws that is counted where they are.

    The gradient of `mean` divides by a size. Sizes are the CPU's, and ONNX Runtime would copy them to the GPU midway.
    """
    return values.sum(1) / torch.ones_like(values).sum(1)


def _product(rows: Tensor, matrix: Tensor) -> Tensor:
    """Rows (..., M) times a matrix (M, N): never a single row, which ONNX Runtime adds up in another order."""
    flat = rows.flatten(0, -2)
    padded = torch.cat([flat, torch.zeros_like(flat[:1])])
    return (padded @ matrix)[:-1].unflatten(0, rows.shape[:-1])


PRIORS: dict[str, type[Prior]] = {"standard_normal": StandardNormal, "mixture": Mixture}
