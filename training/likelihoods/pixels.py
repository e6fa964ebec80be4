"""Likelihoods of images alone.

y = (x − low)/(high − low) is a pixel from black to white, 0 to 1.

This module must not know about networks, priors or training.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from service.manifest import ImageInput, TabularInput
from training.likelihoods.likelihood import Likelihood, LikelihoodError


class Bernoulli(Likelihood):
    """Two-level images. On grey pixels this is no distribution (and rewards dark images), so those are refused."""

    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__(data, rows)
        if not isinstance(data, ImageInput) or not np.isin(rows, (data.low, data.high)).all():
            raise LikelihoodError("a Bernoulli needs images whose pixels are all black or white, nothing between")
        self.low, self.high = data.low, data.high
        self.num_params = len(data.features)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        sign = torch.where(x > self.low, -1.0, 1.0)
        return -functional.softplus(sign * params)

    def mean(self, params: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * torch.sigmoid(params)

    def sample(self, params: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
        return torch.where(uniform < torch.sigmoid(params), self.high, self.low)


class DiscretizedLogistic(Likelihood):
    """A logistic distribution over the whole levels low..high of an image (Kingma et al. 2016, appendix C.1).

    A level's probability is the logistic's mass within half a level of it; the two outermost levels have the tails too,
    so that the levels' probabilities sum to one. Each pixel has its own location and scale.
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
