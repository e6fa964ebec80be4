"""Gaussians p(x_d|z) = N(x; x̂, σ²), which differ in where σ comes from.

Decoders and σ work in units of the data's scale: of an image black to white, of a table's column its standard
deviation. Log-densities are in data units all the same: −log σ − ½ log 2π − ½ ((x − x̂)/σ)² − log scale.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.bundle import ImageInput, TabularInput
from training.model.likelihoods.likelihood import Likelihood, LikelihoodError
from training.model.scales import location_and_scale, usual_cells

LOG_2PI = math.log(2 * math.pi)


class GaussianFixed(Likelihood):
    """N(x̂, ½) in units of the scale: −log p is (x − x̂)² plus a constant, the squared error of the textbook."""

    location: Tensor
    scale: Tensor

    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__(data, rows)
        self.num_params = len(data.features)
        self.are_pixels = isinstance(data, ImageInput)
        if isinstance(data, TabularInput) and any(column.type == "categorical" for column in data.columns):
            raise LikelihoodError("a Gaussian needs numbers; tables with categories have the likelihood mixed")
        location, scale = location_and_scale(data, rows)
        self.register_buffer("location", location)
        self.register_buffer("scale", scale)

    def normal(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """x̂ (..., D), from `location` and in units of the scale, and log σ in those units, which broadcasts to it."""
        return params, torch.full((1,), 0.5 * math.log(0.5), device=self.scale.device)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        mean, log_sigma = self.normal(params)
        residual, missing = self.residual(mean, x)
        constant = log_sigma + (0.5 * LOG_2PI + self.scale.log()).float()
        return self.observed(-0.5 * (residual * torch.exp(-log_sigma)) ** 2 - constant, missing)

    def log_likelihood(self, params: Tensor, x: Tensor) -> Tensor:
        """The sum of `log_prob`, whose constants are added for each row, not for each draw.

        One σ for all features scales the sum of squares instead of each residual, which is more exact, too.
        """
        mean, log_sigma = self.normal(params)
        residual, missing = self.residual(mean, x)
        constant = self.observed(log_sigma.double() + (0.5 * LOG_2PI + self.scale.log()), missing)
        if len(log_sigma) == 1:
            squares = torch.exp(-2 * log_sigma.double()) * (self.observed(residual, missing) ** 2).double().sum(-1)
        else:
            squares = ((residual * self.observed(torch.exp(-log_sigma), missing)) ** 2).double().sum(-1)
        return -0.5 * squares - constant.sum(-1)

    def mean(self, params: Tensor) -> Tensor:
        mean, _ = self.normal(params)
        return self.location + self.scale * mean

    def sample(self, params: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
        mean, log_sigma = self.normal(params)
        return self.location + self.scale * (mean + log_sigma.exp() * normal)

    def residual(self, mean: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The difference x − x̂ in units of the scale, (..., D), any number where x is missing; and where it is."""
        y = ((x - self.location) / self.scale).float()
        missing = y.isnan()
        # Filled in before the arithmetic: a NaN would reach the gradient even where it is masked afterwards.
        return self.observed(y, missing) - mean, missing

    def observed(self, values: Tensor, missing: Tensor) -> Tensor:
        """The values (..., D), but 0 where x is missing, as no pixel is."""
        return values if self.are_pixels else torch.where(missing, 0.0, values)


class _GaussianAboveFloor(GaussianFixed):
    """A Gaussian whose σ comes from the data, and never falls below a floor that the training rows set.

    Without one a feature that can be predicted exactly has infinite density, and the bound rewards nothing else. The
    floor of σ is the greater of

    - a hundredth of the scale, and
    - step/√(2π), where `resolution` finds a step: the density's peak 1/(σ√(2π)) is then at most 1/step, so that no
      value is worth more than probability 1 for the step around it, which is the most that a distribution over whole
      numbers could give. A column of integers can be predicted exactly, and gains nothing beyond that.

    Levels of an image (uint8) are a step of 1 apart. With 256 of them the hundredth (2.55 levels) lies above the step's
    0.4 levels; with the 17 of scikit-learn's digits the step decides, and a two-level image cannot have σ below 0.4 of
    black to white. Pixels of float32 images are continuous by declaration: step 0.
    """

    log_floor: Tensor

    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__(data, rows)
        if isinstance(data, ImageInput):
            step = torch.full_like(self.scale, 1.0 if data.dtype == "uint8" else 0.0)
            spread = float(np.std(rows)) / (data.high - data.low)
        else:
            step = resolutions(rows)
            spread = 1.0
        floor = self.floor(step)
        floor = floor[:1] if self.are_pixels else floor  # They have the same.
        self.register_buffer("log_floor", floor.log().float())
        # Where the best constant prediction has σ.
        self.start = math.log(max(spread, 0.02))

    def floor(self, step: Tensor) -> Tensor:
        """The least σ in units of the scale, (D,), for the steps of features before they are scaled, 0 for none."""
        return (step / self.scale / math.sqrt(2 * math.pi)).clamp(min=0.01)

    def above_floor(self, free: Tensor) -> Tensor:
        """Log σ of σ = floor + e^free, which has a gradient everywhere, where a clamp would lose it."""
        return self.log_floor + functional.softplus(free - self.log_floor)


class Gaussian(_GaussianAboveFloor):
    """N(x̂, σ²) with one σ per feature, learned with the rest of the model."""

    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__(data, rows)
        self.free_log_sigma = nn.Parameter(torch.full((self.num_sigmas(),), self.start))

    def num_sigmas(self) -> int:
        return self.num_params

    def normal(self, params: Tensor) -> tuple[Tensor, Tensor]:
        return params, self.above_floor(self.free_log_sigma)


class GaussianShared(Gaussian):
    """N(x̂, σ²) with one σ for all features, learned with the rest of the model (Rybkin et al. 2021, "σ-VAE").

    It is one above the floors: of a table's columns each keeps its own floor under it.
    """

    def num_sigmas(self) -> int:
        return 1


class GaussianHeteroscedastic(_GaussianAboveFloor):
    """N(x̂, σ²) with a σ for each feature of each instance: the decoder gives x̂ and, above the floor, log σ.

    Kingma and Welling 2014, appendix C.2, eq. 12.
    """

    CEILING = math.log(1e4)
    """The range of log σ in units of the scale: far beyond any data, and its square still a float32."""

    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__(data, rows)
        self.num_params = 2 * len(data.features)

    log_likelihood = Likelihood.log_likelihood  # Every draw has a σ of its own.

    def normal(self, params: Tensor) -> tuple[Tensor, Tensor]:
        mean, free = params.chunk(2, dim=-1)
        return mean, self.above_floor((free + self.start).clamp(max=self.CEILING))


def resolutions(rows: npt.NDArray[Any]) -> Tensor:
    """The `resolution` of each column's usual cells, (D,), for rows (N, D)."""
    return torch.tensor([resolution(column) for column in usual_cells(np.asarray(rows, np.float64)).T])


def resolution(column: npt.NDArray[np.float64]) -> float:
    """The step between the values of a column of whole multiples of one (integers, say, or rounded numbers).

    Args:
        column: Shape (N,), in data units, NaN where missing.

    Returns:
        The smallest gap between different values, if all gaps are whole multiples of it, to a hundredth; otherwise 0.
    """
    values = np.unique(column[~np.isnan(column)])
    gaps = np.diff(values)
    # Rounded numbers that were computed with differ in their last digits.
    gaps = gaps[gaps > 1e-6 * np.abs(values).max(initial=0.0)]
    step = gaps.min(initial=math.inf)
    multiples = gaps / step
    return float(step) if gaps.size and np.all(np.abs(multiples - np.rint(multiples)) < 0.01) else 0.0
