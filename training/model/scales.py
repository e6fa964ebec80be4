"""The scale of each feature: of a pixel black to white, of numbers what their training cells say."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from service.bundle import ImageInput, TabularInput

FAR = 50.0
"""Robust standard deviations beyond which a training cell does not count for its column's scale."""

STRAIGHT = 3.0
"""Robust standard deviations from the median at which an asinh scale turns from a straight line to a logarithm."""

REACH = 50.0
"""The limit of u when it becomes x again: e^50 widths lie beyond all data, and their products still fit float64."""


def location_and_scale(data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> tuple[Tensor, Tensor]:
    """Black and black to white of each pixel, or the `moments` of each column: two float64 tensors of shape (D,)."""
    if isinstance(data, TabularInput):
        return moments(rows)
    low = torch.full((len(data.features),), data.low, dtype=torch.float64)
    return low, torch.full_like(low, data.high - data.low)


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
    # In units of a power of two the squares of 1e300 are finite, and those of 1e-300 not zero; no digit changes.
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
    low, median, high = quartiles(rows)
    far = FAR * (high - low) / 1.349
    return np.where((far > 0) & (np.abs(rows - median) > far), np.nan, rows)


def quartiles(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """First quartile, median and third quartile of each column's observed cells, (3, D), for rows (N, D)."""
    if not rows.size:
        return np.full((3, rows.shape[1]), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # A column may be missing as a whole.
        return np.asarray(np.nanpercentile(rows, (25, 50, 75), axis=0))


class AsinhScale(nn.Module):
    """u = asinh((x − m)/w), elementwise, for each column (Johnson 1949, "Systems of frequency curves": the S_U curves).

    m is the median and w is `STRAIGHT` times the interquartile range over 1.349, both of the training cells: outliers
    move neither. Where that range is 0, w is as many standard deviations; in a constant column, `STRAIGHT` itself.

    The functions are written out, since ONNX Runtime has neither asinh nor sinh for float64.

    Args:
        rows: Training rows, (N, D), NaN where missing.
    """

    centre: Tensor
    width: Tensor

    def __init__(self, rows: npt.NDArray[Any]) -> None:
        super().__init__()
        low, median, high = (torch.from_numpy(part) for part in quartiles(np.asarray(rows, np.float64)))
        spread = (high - low) / 1.349
        self.register_buffer("centre", torch.nan_to_num(median))
        self.register_buffer("width", STRAIGHT * torch.where(spread > 0, spread, moments(rows)[1]))

    def forward(self, x: Tensor) -> Tensor:
        """U of x (..., D), float64."""
        t = (x - self.centre) / self.width
        size = t.abs()
        return torch.sign(t) * torch.log(size + torch.sqrt(size * size + 1))

    def inverse(self, u: Tensor) -> Tensor:
        """X of u (..., D), in data units."""
        u = u.clamp(-REACH, REACH)
        return self.centre + self.width * 0.5 * (torch.exp(u) - torch.exp(-u))

    def log_slope(self, x: Tensor) -> Tensor:
        """Log du/dx = −log w − ½ log(1 + ((x − m)/w)²), (..., D): what a density of u has to gain to be one of x."""
        t = (x - self.centre) / self.width
        return -0.5 * torch.log1p(t * t) - self.width.log()
