"""A softmax over a fixed set of values for each feature."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.bundle import CategoricalColumn, ImageInput, TabularInput
from training.model.likelihoods.likelihood import Likelihood, LikelihoodError
from training.model.sizes import by_size


class Categorical(Likelihood):
    """Tables of categories alone, and images of whole levels: log p(x_d|z) = η_x − log Σ_c e^{η_c}, in nats.

    The decoder gives the logits η of every category of a column, or of every level low..high of a pixel. Levels have no
    order here: where there are many, `DiscretizedLogistic` needs far fewer numbers.
    """

    features: Tensor
    order: Tensor
    params: Tensor

    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__(data, rows)
        self.lowest, self.ordered = 0.0, isinstance(data, ImageInput)
        if isinstance(data, ImageInput):
            if data.dtype != "uint8":
                raise LikelihoodError("a categorical needs images of whole levels (uint8)")
            self.lowest = data.low
            sizes = [round(data.high - data.low) + 1] * len(data.features)
        else:
            sizes = [len(column.categories) for column in data.columns if isinstance(column, CategoricalColumn)]
            if len(sizes) < len(data.columns):
                raise LikelihoodError("a categorical needs categories; tables with numbers have the likelihood mixed")
        features, params, self.blocks = by_size(sizes)
        self.num_params = sum(sizes)
        self.is_sorted = bool((np.diff(features) > 0).all())
        if not self.is_sorted:
            self.register_buffer("features", torch.from_numpy(features))
            self.register_buffer("order", self.features.argsort())
            self.register_buffer("params", torch.from_numpy(params))

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        parts = []
        for values, logits in zip(self._features(x), self._logits(params), strict=True):
            # A missing cell equals no value and so adds nothing.
            chosen = (values[..., None] == self._values(logits)).float()
            parts.append((chosen * torch.log_softmax(logits, -1)).sum(-1))
        return self._joined(parts)

    def mean(self, params: Tensor) -> Tensor:
        if self.ordered:
            parts = [(torch.softmax(logits, -1) * self._values(logits)).sum(-1) for logits in self._logits(params)]
        else:
            parts = [logits.argmax(-1).double() for logits in self._logits(params)]
        return self._joined(parts)

    def sample(self, params: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
        parts = []
        for u, logits in zip(self._features(uniform), self._logits(params), strict=True):
            # The last sum may be rounded to less than 1, hence the clamp.
            cumulative = torch.softmax(logits, -1).cumsum(-1)
            code = (u[..., None] > cumulative).float().sum(-1).clamp(max=logits.shape[-1] - 1)
            parts.append(self.lowest + code)
        return self._joined(parts)

    def _features(self, x: Tensor) -> tuple[Tensor, ...]:
        """(..., D) → (..., n) for each block of n features."""
        x = x if self.is_sorted else x.index_select(-1, self.features)
        return x.split([features for features, _ in self.blocks], -1)

    def _logits(self, params: Tensor) -> list[Tensor]:
        """(..., num_params) → (..., n, size) for each block of n features of so many values."""
        params = params if self.is_sorted else params.index_select(-1, self.params)
        parts = params.split([features * size for features, size in self.blocks], -1)
        return [part.unflatten(-1, block) for part, block in zip(parts, self.blocks, strict=True)]

    def _joined(self, parts: list[Tensor]) -> Tensor:
        """(..., n) for each block of n features → (..., D)."""
        joined = torch.cat(parts, -1)
        return joined if self.is_sorted else joined.index_select(-1, self.order)

    def _values(self, logits: Tensor) -> Tensor:
        return self.lowest + torch.arange(logits.shape[-1], dtype=torch.float32, device=logits.device)
