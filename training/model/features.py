"""Inputs of the encoder: raw data, scaled and encoded. Compiled into the graphs, so that clients send raw data.

The bound is exact for any encoder, so nothing here touches the likelihood. The features may squash outliers or fill in
missing cells, and the bound is still a bound.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from service.bundle import CategoricalColumn, ImageInput, NumericColumn, TabularInput
from training.model.scales import AsinhScale, moments
from training.model.sizes import by_size

CLIP = 10.0
"""Standard deviations beyond which the encoder cannot tell outliers apart."""


class ImageFeatures(nn.Module):
    """Pixels, black to white as 0 to 1. (B, H, W[, C]) → (B, H·W·C)."""

    def __init__(self, data: ImageInput) -> None:
        super().__init__()
        self.low, self.scale = data.low, data.high - data.low
        self.num_features = len(data.features)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1).float() - self.low) / self.scale

    def units(self, x: Tensor) -> Tensor:
        """One unit of each pixel's scale, black to white, in data units, (H·W·C,)."""
        return torch.full((self.num_features,), self.scale, dtype=torch.float64)


class TableFeatures(nn.Module):
    """Cells, spelled out. (B, columns) → (B, num_features).

    Numbers are standardised by the training rows' mean and standard deviation and clipped at ±`CLIP`; a missing number
    is 0, the mean. On an asinh scale their places on that scale are. Numbers with a period are the sine and cosine of
    their phase. Categories are one-hot; a missing one is all zeros. Columns that had missing cells in training add an
    indicator of that.

    Args:
        data: The columns.
        rows: The training rows, shape (N, columns), NaN where missing.
        asinh: Whether numbers are seen on an asinh scale; see `AsinhScale`.
    """

    numeric: Tensor
    cyclic: Tensor
    turns: Tensor
    coded: Tensor
    in_order: Tensor
    with_missing: Tensor
    location: Tensor
    scale: Tensor

    def __init__(self, data: TabularInput, rows: npt.NDArray[Any], asinh: bool = False) -> None:
        super().__init__()
        plain = [isinstance(column, NumericColumn) and column.period is None for column in data.columns]
        numeric = np.flatnonzero(plain)
        self._keep("numeric", torch.tensor(numeric))
        self.periods = {
            i: column.period
            for i, column in enumerate(data.columns)
            if isinstance(column, NumericColumn) and column.period is not None
        }
        self.categorical = {
            i: len(column.categories) for i, column in enumerate(data.columns) if isinstance(column, CategoricalColumn)
        }
        columns, values, self.blocks = by_size([*self.categorical.values()])
        self._keep("coded", torch.tensor([*self.categorical], dtype=torch.int64)[columns])
        self._keep("in_order", torch.from_numpy(values.argsort()))
        self._keep("cyclic", torch.tensor([*self.periods], dtype=torch.int64))
        turns = [2 * math.pi / period for period in self.periods.values()]
        self._keep("turns", torch.tensor(turns, dtype=torch.float64))
        self._keep("with_missing", torch.tensor(np.flatnonzero(np.isnan(rows).any(axis=0))))
        self.num_features = (
            len(numeric) + 2 * len(self.periods) + sum(self.categorical.values()) + len(self.with_missing)
        )
        self.asinh = AsinhScale(rows[:, numeric]) if asinh and len(numeric) else None
        location, scale = moments(self._scaled(torch.from_numpy(rows[:, numeric])).numpy())
        self._keep("location", location)
        self._keep("scale", scale)

    def _keep(self, name: str, values: Tensor) -> None:
        """Register a buffer. Checkpoints are without empty ones, which safetensors takes for one shared tensor."""
        self.register_buffer(name, values, persistent=len(values) > 0)

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        if len(self.numeric):
            standard = (self._scaled(x.index_select(1, self.numeric)) - self.location) / self.scale
            parts.append(torch.where(standard.isnan(), 0.0, standard).clamp(-CLIP, CLIP).float())
        if self.periods:
            phase = self.turns * x.index_select(1, self.cyclic)
            waves = [torch.where(phase.isnan(), 0.0, wave).float() for wave in (phase.sin(), phase.cos())]
            parts.append(torch.stack(waves, -1).flatten(1))
        if self.categorical:
            parts.append(self._one_hot(x.index_select(1, self.coded)).index_select(1, self.in_order))
        if len(self.with_missing):
            parts.append(x.index_select(1, self.with_missing).isnan().float())
        return torch.cat(parts, dim=1)

    def _one_hot(self, codes: Tensor) -> Tensor:
        parts = []
        for block, (_, size) in zip(codes.split([columns for columns, _ in self.blocks], 1), self.blocks, strict=True):
            # NaN equals no code, so a missing category is all zeros.
            chosen = block[..., None] == torch.arange(size, dtype=codes.dtype, device=codes.device)
            parts.append(chosen.float().flatten(1))
        return torch.cat(parts, 1)

    def units(self, x: Tensor) -> Tensor:
        """One unit of each column's scale, in data units, (..., columns): 1 for codes of categories and cyclic numbers.

        An asinh scale is logarithmic far from the median, so that its unit grows with the distance of x.
        """
        numbers = x.index_select(-1, self.numeric).double()
        scale = self.scale if self.asinh is None else self.scale * torch.exp(-self.asinh.log_slope(numbers))
        return torch.ones_like(x, dtype=torch.float64).index_copy(-1, self.numeric, scale.expand_as(numbers))

    def _scaled(self, numbers: Tensor) -> Tensor:
        """Numbers in data units → numbers on the scale that is standardised."""
        return numbers if self.asinh is None else self.asinh(numbers)


def encoder_features(
    data: ImageInput | TabularInput, rows: npt.NDArray[Any], asinh: bool = False
) -> ImageFeatures | TableFeatures:
    """The encoder's inputs for this kind of data; `rows` are the training rows."""
    return ImageFeatures(data) if isinstance(data, ImageInput) else TableFeatures(data, rows, asinh)
