"""Likelihoods p(x|z): one class each, in data units, normalising constants included.

A decoder turns z into `num_params` numbers per instance; a likelihood says what they mean. Shapes: `params` (...,
num_params); `x`, and everything per feature, (..., D), the D values of an instance in C order.

This module must not know about networks, priors or training.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.errors import LowerboundError
from service.manifest import CategoricalColumn, ImageInput, TabularInput
from training.features import moments

LOG_2PI = math.log(2 * math.pi)


class LikelihoodError(LowerboundError):
    """A likelihood that the data cannot have. The message names what does not fit."""


class Likelihood(nn.Module, ABC):
    """p(x|z) as a function of the decoder's outputs.

    Args:
        data: What kind of data.
        rows: The training rows, raw, shape (N, *data.shape).

    Raises:
        LikelihoodError: The data is not of the kind that this likelihood is a distribution of.
    """

    num_params: int

    @abstractmethod
    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__()

    @abstractmethod
    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Log p(x_d|z) in nats for each feature; 0 where x is missing. Broadcasts over the leading dimensions."""

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """E[x|z] in data units; for categories the most probable one's code."""

    @abstractmethod
    def sample(self, params: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
        """A draw from p(x|z), made from N(0, 1) and from open-interval uniform noise, both of shape (..., D)."""


class GaussianFixed(Likelihood):
    """N(x̂, ½) in units of the data's scale: −log p is ‖x − x̂‖² plus a constant, the squared error of the textbook.

    The scale of an image is black to white; of a table's column, its standard deviation.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__(data, rows)
        self.num_params = len(data.features)
        if isinstance(data, ImageInput):
            location = torch.full((self.num_params,), data.low, dtype=torch.float64)
            scale = torch.full((self.num_params,), data.high - data.low, dtype=torch.float64)
        elif all(column.type == "numeric" for column in data.columns):
            location, scale = moments(rows)
        else:
            raise LikelihoodError("a Gaussian needs numbers; tables with categories have the likelihood mixed")
        self.register_buffer("location", location)
        self.register_buffer("scale", scale)

    def log_sigma(self) -> Tensor:
        """Log σ in units of the scale, shape (D,) or (1,)."""
        return torch.full((1,), 0.5 * math.log(0.5), device=self.scale.device)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        y = ((x - self.location) / self.scale).float()
        missing = y.isnan()
        log_sigma = self.log_sigma()
        # Filled in before the arithmetic: a NaN would reach the gradient even where it is masked afterwards.
        residual = (torch.where(missing, 0.0, y) - params) * torch.exp(-log_sigma)
        constant = log_sigma + (0.5 * LOG_2PI + self.scale.log()).float()
        return torch.where(missing, 0.0, -0.5 * residual**2 - constant)

    def mean(self, params: Tensor) -> Tensor:
        return self.location + self.scale * params

    def sample(self, params: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
        return self.location + self.scale * (params + self.log_sigma().exp() * normal)


class Gaussian(GaussianFixed):
    """N(x̂, σ²) with one σ per feature, learned with the rest of the model."""

    floor = math.log(0.01)
    """Of log σ, in units of the scale: an exactly predictable feature must not have infinite density."""

    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__(data, rows)
        # Starts where the best constant prediction has it: at the spread of the data.
        spread = float(np.std(rows)) / (data.high - data.low) if isinstance(data, ImageInput) else 1.0
        self.free_log_sigma = nn.Parameter(torch.full((self.num_sigmas(),), math.log(max(spread, 0.02))))

    def num_sigmas(self) -> int:
        return self.num_params

    def log_sigma(self) -> Tensor:
        # Softplus above the floor keeps a gradient everywhere, where a clamp would lose it.
        return self.floor + functional.softplus(self.free_log_sigma - self.floor)


class GaussianShared(Gaussian):
    """N(x̂, σ²) with one σ for all features, learned with the rest of the model (Rybkin et al. 2021, "σ-VAE")."""

    def num_sigmas(self) -> int:
        return 1


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


class Mixed(Likelihood):
    """Tables of numbers and categories: a Gaussian with a learned σ for each number, a softmax for each category.

    Given z the cells are independent; missing ones are left out of the sum, so that the bound is one on the observed
    cells alone (Nazábal et al. 2020, "Handling incomplete heterogeneous data using VAEs").
    """

    order: Tensor

    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__(data, rows)
        if not isinstance(data, TabularInput):
            raise LikelihoodError("mixed is a likelihood of tables")
        self.numeric = [i for i, column in enumerate(data.columns) if column.type == "numeric"]
        self.categorical = [i for i, column in enumerate(data.columns) if column.type == "categorical"]
        self.sizes = [len(c.categories) for c in data.columns if isinstance(c, CategoricalColumn)]
        self.num_params = len(self.numeric) + sum(self.sizes)
        if self.numeric:
            columns = TabularInput(columns=tuple(data.columns[i] for i in self.numeric))
            self.gaussian = Gaussian(columns, rows[:, self.numeric])
        # Features are computed kind by kind; this puts them back into the table's order.
        self.register_buffer("order", torch.tensor(np.argsort(self.numeric + self.categorical)))

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        numbers, logits = self._split(params)
        parts = [self.gaussian.log_prob(numbers, x[..., self.numeric])] if self.numeric else []
        for i, logit in zip(self.categorical, logits, strict=True):
            codes = torch.arange(logit.shape[-1], dtype=x.dtype, device=x.device)
            # A missing cell equals no code and so adds nothing.
            chosen = (x[..., i, None] == codes).float()
            parts.append((chosen * torch.log_softmax(logit, -1)).sum(-1, keepdim=True))
        return torch.cat(parts, -1).index_select(-1, self.order)

    def mean(self, params: Tensor) -> Tensor:
        numbers, logits = self._split(params)
        parts = [self.gaussian.mean(numbers)] if self.numeric else []
        parts += [logit.argmax(-1, keepdim=True).double() for logit in logits]
        return torch.cat(parts, -1).index_select(-1, self.order)

    def sample(self, params: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
        numbers, logits = self._split(params)
        noise = normal[..., self.numeric], uniform[..., self.numeric]
        parts = [self.gaussian.sample(numbers, *noise)] if self.numeric else []
        for i, logit in zip(self.categorical, logits, strict=True):
            cumulative = torch.softmax(logit, -1).cumsum(-1)[..., :-1]
            parts.append((uniform[..., i, None] > cumulative).double().sum(-1, keepdim=True))
        return torch.cat(parts, -1).index_select(-1, self.order)

    def _split(self, params: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        numbers, *logits = params.split([len(self.numeric), *self.sizes], dim=-1)
        return numbers, tuple(logits)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "gaussian": Gaussian,
    "gaussian_shared": GaussianShared,
    "gaussian_fixed": GaussianFixed,
    "bernoulli": Bernoulli,
    "discretized_logistic": DiscretizedLogistic,
    "mixed": Mixed,
}
