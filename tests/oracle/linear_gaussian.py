"""The oracle: a linear-Gaussian VAE, of which everything the service answers has a closed form.

    z ~ N(0, I)        x | z ~ N(W z + b, diag σ²)        in data units

is probabilistic PCA (Tipping and Bishop 1999). The columns of diag(σ)⁻¹ W are orthogonal here, so that the exact
posterior

    p(z|x) = N(V Wᵀ diag(σ)⁻² (x − b), V),        V = (I + Wᵀ diag(σ)⁻² W)⁻¹

has a diagonal covariance: a linear encoder can be exact. Written with NumPy and SciPy in float64, and never with the
code that is tested.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LinearGaussian:
    """A generative model and a linear encoder q(z|x) = N(slope x + offset, diag variance).

    Attributes:
        weight: W, (D, L), data units per latent.
        bias: b, (D,).
        sigma: σ, (D,).
        slope: (L, D).
        offset: (L,).
        variance: (L,).
    """

    weight: Array
    bias: Array
    sigma: Array
    slope: Array
    offset: Array
    variance: Array

    @classmethod
    def make(cls, bias: Array, sigma: Array, strengths: Array, seed: int = 0) -> Self:
        """A model whose latents stand out of the noise by `strengths` (L,), with the exact encoder."""
        basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(bias), len(strengths))))
        weight = sigma[:, None] * basis * strengths
        variance = 1 / (1 + strengths**2)
        slope = variance[:, None] * weight.T / sigma**2
        return cls(weight, bias, sigma, slope, -slope @ bias, variance)

    def with_wrong_encoder(self) -> Self:
        """The same generative model with an encoder that is off in slope, offset and width (but nowhere too narrow)."""
        size = len(self.variance)
        return replace(
            self,
            slope=self.slope * np.linspace(0.8, 1.1, size)[:, None],
            offset=self.offset * np.linspace(0.8, 1.1, size) + np.sqrt(self.variance) * np.linspace(-0.5, 0.6, size),
            variance=self.variance * np.linspace(1.3, 1.6, size),
        )

    def sample(self, rows: int, seed: int) -> Array:
        """Draws of x, (rows, D)."""
        rng = np.random.default_rng(seed)
        z = rng.standard_normal((rows, len(self.variance)))
        return self.decode(z) + self.sigma * rng.standard_normal((rows, len(self.bias)))

    def decode(self, z: Array) -> Array:
        """E[x|z], (rows, D)."""
        return np.asarray(z @ self.weight.T + self.bias)

    def encode(self, x: Array) -> Array:
        """The mean of q(z|x), (rows, L)."""
        return np.asarray(x @ self.slope.T + self.offset)

    def log_evidence(self, x: Array) -> Array:
        """Log p(x) = log N(x; b, W Wᵀ + diag σ²), (rows,)."""
        covariance = self.weight @ self.weight.T + np.diag(self.sigma**2)
        return np.asarray(stats.multivariate_normal(self.bias, covariance).logpdf(x))

    def conditional_mean(self, x: Array) -> Array:
        """E[x_d | x_others] for each d, (rows, D): x_d less Σ_e P_de (x_e − b_e) / P_dd, with P the precision of x."""
        precision = np.linalg.inv(self.weight @ self.weight.T + np.diag(self.sigma**2))
        return np.asarray(x - (x - self.bias) @ precision / np.diag(precision))

    def posterior(self, x: Array) -> tuple[Array, Array]:
        """Mean (rows, L) and covariance (L, L) of p(z|x), for any W."""
        precision = np.eye(len(self.variance)) + (self.weight.T / self.sigma**2) @ self.weight
        covariance = np.linalg.inv(precision)
        return ((x - self.bias) / self.sigma**2) @ self.weight @ covariance, covariance

    def elbo(self, x: Array) -> Array:
        """Log p(x) − KL(q(z|x) ‖ p(z|x)), (rows,)."""
        mean, covariance = self.posterior(x)
        return self.log_evidence(x) - gaussian_kl(self.encode(x), self.variance, mean, covariance)

    def kl(self, x: Array) -> Array:
        """KL(q(z|x) ‖ p(z)), (rows,)."""
        size = len(self.variance)
        return gaussian_kl(self.encode(x), self.variance, np.zeros(size), np.eye(size))

    def feature_log_likelihood(self, x: Array) -> Array:
        """E_q[log p(x_d|z)], (rows, D)."""
        at_mean = stats.norm(self.decode(self.encode(x)), self.sigma).logpdf(x)
        return np.asarray(at_mean - 0.5 * (self.weight**2 @ self.variance) / self.sigma**2)

    def deviation(self, x: Array) -> Array:
        """Standard deviation of log p(x|z) over z ~ q(z|x), (rows,): of a linear and a quadratic form in N(0, I)."""
        deviation = np.sqrt(self.variance)
        linear = ((x - self.decode(self.encode(x))) / self.sigma**2) @ self.weight * deviation
        quadratic = deviation[:, None] * ((self.weight.T / self.sigma**2) @ self.weight) * deviation
        return np.asarray(np.sqrt((linear**2).sum(-1) + 0.5 * (quadratic**2).sum()))


def gaussian_kl(mean: Array, variance: Array, other_mean: Array, other_covariance: Array) -> Array:
    """KL(N(mean, diag variance) ‖ N(other_mean, other_covariance)) for each row of `mean` (rows, L), (rows,)."""
    precision = np.linalg.inv(other_covariance)
    difference = other_mean - mean
    distance = np.einsum("ri,ij,rj->r", difference, precision, difference)
    log_determinants = np.linalg.slogdet(other_covariance)[1] - np.log(variance).sum()
    return np.asarray(0.5 * (np.diag(precision) @ variance + distance - len(variance) + log_determinants))
