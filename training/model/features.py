"""Inputs of the encoder: raw data, scaled and encoded. Compiled into the graphs, so that clients send raw data.

The bound is exact for any encoder, so nothing here touches the likelihood: it may squash outliers or fill in missing
cells, and the bound is still a bound.
"""

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from service.bundle import CategoricalColumn, ImageInput, NumericColumn, TabularInput

FAR = 50.0
"""Robust standard deviations beyond which a training cell does not count for its column's scale."""

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

    def units(self) -> Tensor:
        """One unit of each pixel's scale, black to white, in data units, (H·W·C,)."""
        return torch.full((self.num_features,), self.scale, dtype=torch.float64)


class TableFeatures(nn.Module):
    """Cells, spelled out. (B, columns) → (B, num_features).

    Numbers are standardised by the training rows' mean and standard deviation and clipped at ±`CLIP`; a missing number
    is 0, the mean. Numbers with a period are the sine and cosine of their phase. Categories are one-hot; a missing one
    is all zeros. Columns that had missing cells in training add an indicator of that.

    Args:
        data: The columns.
        rows: The training rows, shape (N, columns), NaN where missing.
    """

    numeric: Tensor
    with_missing: Tensor
    location: Tensor
    scale: Tensor

    def __init__(self, data: TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__()
        plain = [isinstance(column, NumericColumn) and column.period is None for column in data.columns]
        numeric = np.flatnonzero(plain)
        self.register_buffer("numeric", torch.tensor(numeric))
        self.num_columns = len(data.columns)
        self.periods = {
            i: column.period
            for i, column in enumerate(data.columns)
            if isinstance(column, NumericColumn) and column.period is not None
        }
        self.categorical = {
            i: len(column.categories) for i, column in enumerate(data.columns) if isinstance(column, CategoricalColumn)
        }
        self.register_buffer("with_missing", torch.tensor(np.flatnonzero(np.isnan(rows).any(axis=0))))
        self.num_features = (
            len(numeric) + 2 * len(self.periods) + sum(self.categorical.values()) + len(self.with_missing)
        )
        location, scale = moments(rows[:, numeric])
        self.register_buffer("location", location)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        if len(self.numeric):
            standard = (x.index_select(1, self.numeric) - self.location) / self.scale
            parts.append(torch.where(standard.isnan(), 0.0, standard).clamp(-CLIP, CLIP).float())
        for i, period in self.periods.items():
            phase = 2 * math.pi / period * x[:, i, None]
            parts += [torch.where(phase.isnan(), 0.0, wave).float() for wave in (phase.sin(), phase.cos())]
        for i, size in self.categorical.items():
            # NaN equals no code, so a missing category is all zeros.
            parts.append((x[:, i, None] == torch.arange(size, dtype=x.dtype, device=x.device)).float())
        if len(self.with_missing):
            parts.append(x.index_select(1, self.with_missing).isnan().float())
        return torch.cat(parts, dim=1)

    def units(self) -> Tensor:
        """One unit of each column's scale, in data units, (columns,): 1 for codes of categories and cyclic numbers."""
        units = torch.ones(self.num_columns, dtype=torch.float64)
        return units.index_copy(0, self.numeric.cpu(), self.scale.cpu())


def encoder_features(data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> ImageFeatures | TableFeatures:
    """The encoder's inputs for this kind of data; `rows` are the training rows."""
    return ImageFeatures(data) if isinstance(data, ImageInput) else TableFeatures(data, rows)


def moments(rows: npt.NDArray[Any]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column's usual cells; a constant column has deviation 1.

    Missing cells are left out, and so are those further than `FAR` robust standard deviations (the interquartile range
    over 1.349) from the median: three cells of 9999999999 would otherwise set the scale of an income, in which 250,000
    would be nothing strange. A column whose interquartile range is zero keeps all its cells.

    Args:
        rows: Shape (N, D), NaN where missing.

    Returns:
        Two float64 tensors of shape (D,).
    """
    usual = usual_cells(np.asarray(rows, np.float64))
    # In units of a power of two, which changes no digit, the squares of 1e300 are finite, and those of 1e-300 not zero.
    _, exponent = np.frexp(np.fmax.reduce(np.abs(usual), axis=0, initial=0.0))
    observed = torch.from_numpy(np.ldexp(usual, -exponent))
    count = (~observed.isnan()).sum(0)
    mean = observed.nansum(0) / count
    variance = ((observed - mean) ** 2).nansum(0) / count
    # The mean of equal numbers may differ from them in the last digit.
    constant = variance <= (1e-12 * mean) ** 2
    location, scale = (torch.from_numpy(np.ldexp(part.numpy(), exponent)) for part in (mean, variance.sqrt()))
    return location, torch.where(constant, 1.0, scale)


def usual_cells(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The rows, (N, D), with NaN for every cell that is too far out to count for its column's scale; see `moments`."""
    if not rows.size:
        return rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # A column may be missing as a whole.
        low, median, high = np.nanpercentile(rows, (25, 50, 75), axis=0)
    far = FAR * (high - low) / 1.349
    return np.where((far > 0) & (np.abs(rows - median) > far), np.nan, rows)
