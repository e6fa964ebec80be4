"""A Gaussian of each number on an asinh scale, with one σ for all columns."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.bundle import ImageInput, TabularInput
from training.model.likelihoods.gaussian import GaussianShared, resolutions
from training.model.likelihoods.likelihood import LikelihoodError
from training.model.scales import AsinhScale


class AsinhGaussian(GaussianShared):
    """U(x) ~ N(û, σ²) with u = asinh((x − m)/w), standardised, and one σ for all columns, learned with the model.

    The change of variables is in the density, which is one of x in data units:

        log p(x) = log N(u(x); û, σ²) + log du/dx,  du/dx = 1/√(w² + (x − m)²)

    Far from the median the scale is logarithmic: a heavy tail of x is a light one of u, and outliers neither widen σ
    nor bend û. One σ cannot spend its precision on sparse or nearly constant columns, where a σ for each column lets
    the density rise without end while it tells rows apart ever worse (Dai and Wipf 2019, "Diagnosing and enhancing VAE
    models", on what a vanishing σ does).

    The floor of σ is that of the Gaussians; a step counts by the scale's slope at the median, where it is steepest.
    """

    asinh_scale = True

    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        if isinstance(data, ImageInput):
            raise LikelihoodError("an asinh scale is one of tables' columns")
        asinh = AsinhScale(rows)
        super().__init__(data, asinh(torch.from_numpy(np.asarray(rows, np.float64))).numpy())
        self.asinh = asinh
        self.log_floor.copy_(self.floor(resolutions(rows) / asinh.width).log())

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        slope = self.asinh.log_slope(x)
        return super().log_prob(params, self.asinh(x)) + torch.where(slope.isnan(), 0.0, slope).float()

    def log_likelihood(self, params: Tensor, x: Tensor) -> Tensor:
        slope = self.asinh.log_slope(x)
        return super().log_likelihood(params, self.asinh(x)) + torch.where(slope.isnan(), 0.0, slope).sum(-1)

    def mean(self, params: Tensor) -> Tensor:
        """E[x|z] = m + w e^(σ²/2) sinh û, in data units."""
        mean, log_sigma = self.normal(params)
        growth = torch.exp(0.5 * (self.scale * log_sigma.exp()) ** 2)
        median = self.asinh.inverse(self.location + self.scale * mean)
        return self.asinh.centre + growth * (median - self.asinh.centre)

    def sample(self, params: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
        return self.asinh.inverse(super().sample(params, normal, uniform))
