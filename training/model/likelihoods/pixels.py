"""Likelihoods of images alone.

y = (x − low)/(high − low) is a pixel from black to white, 0 to 1.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from service.bundle import ImageInput, TabularInput
from training.model.likelihoods.likelihood import Likelihood, LikelihoodError


class Bernoulli(Likelihood):
    """Two-level images: log p(y) = y log λ + (1 − y) log(1 − λ), λ the sigmoid of what the decoder gives.

    Kingma and Welling 2014, appendix C.1, eq. 11. On grey pixels this is no distribution (and rewards dark images), so
    those are refused.
    """

    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__(data, rows)
        if not isinstance(data, ImageInput) or not np.isin(rows, (data.low, data.high)).all():
            raise LikelihoodError(
                "a Bernoulli needs images whose pixels are all black or white, nothing between; for grey ones choose "
                "gaussian or continuous_bernoulli"
            )
        self.low, self.high = data.low, data.high
        self.num_params = len(data.features)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        # log λ = −softplus(−η), log(1 − λ) = −softplus(η): no logarithm of a rounded 0.
        sign = torch.where(x > self.low, -1.0, 1.0)
        return -functional.softplus(sign * params)

    def mean(self, params: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * torch.sigmoid(params)

    def sample(self, params: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
        return torch.where(uniform < torch.sigmoid(params), self.high, self.low)


class ContinuousBernoulli(Likelihood):
    """Grey images, as what a Bernoulli of grey pixels would have to be (Loaiza-Ganem and Cunningham 2019).

    p(y) = C(λ) λ^y (1 − λ)^(1−y) on [0, 1], C(λ) = 2 artanh(1 − 2λ)/(1 − 2λ). By the logit η = log
    λ/(1 − λ) = 2u, which the decoder gives, the same is

        log p(y) = η (y − ½) − log(sinh u / u)      E[y] = ½ + ½ (coth u − 1/u)      y = log(1 + v (e^η − 1)) / η

    with v uniform. λ = ½ is u = 0, and near it each has a Taylor series. Densities are of x in data units: log p(x) =
    log p(y) − log(high − low). Outside [low, high] there is no density, and the formula does not hold.
    """

    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__(data, rows)
        if not isinstance(data, ImageInput):
            raise LikelihoodError("a continuous Bernoulli needs images")
        self.low, self.scale = data.low, data.high - data.low
        self.num_params = len(data.features)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        y = (x.float() - self.low) / self.scale
        half = 0.5 * params
        small = half.abs() < 0.5
        # Another number where the series is taken: the gradient of what is not taken must be finite, too.
        size = torch.where(small, 1.0, half.abs())
        exact = size + torch.log(-torch.expm1(-2 * size)) - torch.log(2 * size)
        square = torch.where(small, half, 0.0) ** 2
        series = square * (1 / 6 - square * (1 / 180 - square / 2835))
        return params * (y - 0.5) - torch.where(small, series, exact) - math.log(self.scale)

    def mean(self, params: Tensor) -> Tensor:
        half = 0.5 * params
        small = half.abs() < 0.5
        size = torch.where(small, 1.0, half)
        square = half**2
        series = half * (1 / 3 - square * (1 / 45 - square * (2 / 945 - square / 4725)))
        return self.low + self.scale * (0.5 + 0.5 * torch.where(small, series, 1 / torch.tanh(size) - 1 / size))

    def sample(self, params: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
        # Measured from the end where the density is high: no exponential overflows, and small v keep their digits.
        # s = −log(w + (1 − w) e^{−|η|}) / |η| is 1 − y with w = v for η > 0, and y with w = 1 − v otherwise.
        w = torch.where(params > 0, uniform, 1 - uniform)
        small = params.abs() < 0.01
        size = torch.where(small, 1.0, params.abs())
        exact = -torch.log(w + (1 - w) * torch.exp(-size)) / size
        series = (1 - w) * (1 - 0.5 * params.abs() * w)
        s = torch.where(small, series, exact)
        return self.low + self.scale * torch.where(params > 0, 1 - s, s).clamp(0, 1)


class DiscretizedLogistic(Likelihood):
    """A logistic distribution over the whole levels low..high of an image.

        P(y) = σ((y + h − m)/s) − σ((y − h − m)/s)        h = ½/(high − low), half a level; m and s of each pixel

    Salimans et al. 2017, eq. 2, with one component. At the lowest level the second term is 0 and at the highest the
    first is 1, so that the two have the tails and the levels' probabilities sum to one.
    """

    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__(data, rows)
        if not isinstance(data, ImageInput) or data.dtype != "uint8":
            raise LikelihoodError("a discretised logistic needs images of whole levels (uint8)")
        self.low, self.high = data.low, data.high
        self.half_level = 0.5 / (data.high - data.low)
        self.num_params = 2 * len(data.features)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        location, log_scale = self._split(params)
        y = (x.float() - self.low) / (self.high - self.low)
        inverse = torch.exp(-log_scale)
        upper = (y + self.half_level - location) * inverse
        lower = (y - self.half_level - location) * inverse
        # log[σ(b) − σ(a)] = log(1 − e^{a−b}) − softplus(−b) − softplus(a): no difference of nearly equal numbers.
        inside = torch.log(-torch.expm1(lower - upper)) - functional.softplus(-upper) - functional.softplus(lower)
        lowest = -functional.softplus(-upper)
        highest = -functional.softplus(lower)
        return torch.where(x <= self.low, lowest, torch.where(x >= self.high, highest, inside))

    def mean(self, params: Tensor) -> Tensor:
        # The sum of P(x ≥ level) over the levels above the lowest, a few levels at a time to spare memory.
        location, log_scale = self._split(params)
        inverse = torch.exp(-log_scale)
        num_steps = round(self.high - self.low)
        edges = (torch.arange(num_steps, device=params.device) + 0.5) / num_steps
        expected = torch.full_like(location, self.low)
        for start in range(0, num_steps, 16):
            above = (location[..., None] - edges[start : start + 16]) * inverse[..., None]
            expected = expected + torch.sigmoid(above).sum(-1)
        return expected

    def sample(self, params: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
        location, log_scale = self._split(params)
        y = location + log_scale.exp() * torch.logit(uniform)
        return torch.round(self.low + (self.high - self.low) * y).clamp(self.low, self.high)

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        location, log_scale = params.chunk(2, dim=-1)
        # From a thousandth of black-to-white to the whole of it; the offset starts training at about an eighth.
        return torch.sigmoid(location), (log_scale - 2).clamp(-7, 0)
