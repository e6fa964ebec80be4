"""Student's t p(x_d|z): a Gaussian whose tails a column's outliers cannot dominate."""

import math
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.bundle import ImageInput, TabularInput
from training.model.likelihoods.gaussian import Gaussian
from training.model.likelihoods.likelihood import Likelihood

STIRLING_SHIFT = 8
"""The expansion of log Γ begins here: the first term left out is 1/(1260 x⁵), below 3e-8 nats from 8 on."""


class StudentT(Gaussian):
    """x̂ + σ t_ν with one σ and one ν > 1 per feature, both learned with the rest of the model.

    log p = log Γ((ν+1)/2) − log Γ(ν/2) − ½ log(νπ) − log σ − (ν+1)/2 · log(1 + ((x − x̂)/σ)²/ν) − log scale

    A Gaussian pays (x − x̂)²/2σ² for each outlier, and so widens σ for the whole column or bends x̂ towards a few rows;
    here an outlier costs log |x − x̂|, and ν tells how many of them the column has (Lange, Little and Taylor 1989,
    "Robust statistical modeling using the t distribution"). The Gaussian is the limit ν → ∞, and the peak is never
    above the Gaussian's, so that the floor of σ bounds the density as it does there. ν > 1 so that the mean exists.
    """

    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__(data, rows)
        # Starts at ν = 9, nearly Gaussian.
        self.free_degrees = nn.Parameter(torch.full((self.num_params,), 8.0))

    def degrees(self) -> Tensor:
        """ν, shape (D,)."""
        return 1 + functional.softplus(self.free_degrees)

    log_likelihood = Likelihood.log_likelihood  # It is no sum of squares.

    def log_density(self, residual: Tensor, missing: Tensor, log_sigma: Tensor) -> Tensor:
        degrees = self.degrees().double()  # For many degrees the two log Γ are large, and nearly the same.
        half = 0.5 * (degrees + 1)
        constant = log_gamma(half) - log_gamma(0.5 * degrees) - 0.5 * torch.log(math.pi * degrees) - self.scale.log()
        square = (residual * torch.exp(-log_sigma)) ** 2
        tail = half.float() * torch.log1p(square / degrees.float())
        density = constant.float() - log_sigma - tail
        return self.observed(density, missing)

    def sample(self, params: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
        # Bailey 1994, "Polar generation of random variates with the t-distribution": √(ν(u^(−2/ν) − 1)) cos 2πv.
        mean, log_sigma = self.normal(params)
        degrees = self.degrees()
        angle = math.pi * (1 + torch.erf(normal / math.sqrt(2)))
        # ONNX has no expm1: e^a − 1 in float32 loses every digit where ν is large, in float64 seven remain.
        power = -2 / degrees.double() * torch.log(uniform.double())
        variate = torch.sqrt(degrees * torch.expm1(power)).float() * torch.cos(angle)
        return self.location + self.scale * (mean + log_sigma.exp() * variate)


def log_gamma(x: Tensor) -> Tensor:
    """Log Γ(x), x ≥ ½, in operations that ONNX has: Stirling's series at x + 8, stepped back by Γ(x + 1) = x Γ(x)."""
    y = x + STIRLING_SHIFT
    series = (y - 0.5) * torch.log(y) - y + 0.5 * math.log(2 * math.pi) + 1 / (12 * y) - 1 / (360 * y**3)
    return series - sum(torch.log(x + step) for step in range(STIRLING_SHIFT))
