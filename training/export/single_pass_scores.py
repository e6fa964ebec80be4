"""Scores beside the bound that one pass through the networks gives: typicality, and for images the multiscale residual.

Both look at the posterior's mean alone, so they need no noise, and are the same under any seed and number of draws.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from service.bundle import Array, ImageInput, TabularInput
from service.engine import fitting
from training.model import VAE
from training.model.vae import log_normal

SIDES = (1 / 9, 1 / 6, 1 / 4)
"""Sizes of the multiscale residual's windows, as shares of the picture's shorter side: from a strap to a cuff."""

LEAST = 0.1
"""What is added to a window's mean square, as a share of the mean of all windows: a corner that is always black counts
for three times as much as others, and no more; and few held-out rows do not know the corners."""

_ROWS = 256
"""That are computed at once when the judge is fitted."""


class SinglePassScores(nn.Module):
    """The graph `scores` of a trained VAE.

    `normal` are held-out rows that neither train nor calibrate, (N, *shape), raw: what is typical.
    """

    location: Tensor
    precision: Tensor
    usual: Tensor
    roughness: Tensor
    slope: Tensor

    def __init__(self, vae: VAE, data: ImageInput | TabularInput, normal: Array) -> None:

        super().__init__()
        self.vae = vae
        self.shape = (*data.shape, 1)[:3] if isinstance(data, ImageInput) else None
        self.edge = data.high - data.low if isinstance(data, ImageInput) else 0.0
        with torch.no_grad():
            batches = torch.from_numpy(np.ascontiguousarray(normal)).split(fitting(_ROWS, normal[0].size))
            statistics = torch.cat([self._statistics(x, self._reconstruction(x)) for x in batches])
        # A statistic that hardly varies says little, rather than everything; few rows say little of correlations.
        deviation = statistics.std(0, correction=0)
        spread = torch.maximum(deviation, 1e-3 * statistics.abs().mean(0) + 1e-6)
        standard = (statistics - statistics.mean(0)) / spread
        covariance = torch.from_numpy(_shrunk_covariance(standard.numpy())) + torch.diag(1 - (deviation / spread) ** 2)
        self.register_buffer("location", statistics.mean(0))
        self.register_buffer("precision", torch.linalg.inv(covariance) / torch.outer(spread, spread))
        if isinstance(data, ImageInput):
            self._fit_residuals(batches)

    @torch.no_grad()
    def _fit_residuals(self, normal: Sequence[Tensor]) -> None:
        """What windows usually have, and how their misfit grows with a picture's roughness."""
        sums = [self._windows(x, self._reconstruction(x)).square().sum(0) for x in normal]
        squares = torch.stack(sums).sum(0) / sum(map(len, normal))
        # The residuals of pictures that are all the same are rounding.
        self.register_buffer("usual", torch.sqrt(squares + LEAST * squares.mean()).clamp(min=1e-3 * self.edge))
        roughness = torch.cat([self._log_roughness(x) for x in normal])
        misfit = torch.cat([self._misfit(x, self._reconstruction(x)) for x in normal]).clamp(min=1e-9).log()
        mean = roughness.mean()
        slope = ((roughness - mean) * misfit).sum() / (roughness - mean).square().sum().clamp(min=1e-9)
        self.register_buffer("roughness", torch.stack([roughness.min(), mean, roughness.quantile(0.75)]))
        self.register_buffer("slope", slope.clamp(0, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """`typicality`, and of images `multiscale_residual`, of x (B, *shape): each (B,), float64."""
        reconstruction = self._reconstruction(x)
        typicality = self._typicality(self._statistics(x, reconstruction))
        if self.shape is None:
            return (typicality,)
        return typicality, self._multiscale_residual(x, reconstruction)

    def _reconstruction(self, x: Tensor) -> Tensor:
        """E[x|z = μ(x)], in data units, (B, D)."""
        return self.vae.likelihood.mean(self.vae.decoder(self.vae.posterior(x)[0]))

    def _statistics(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """Statistics of a pass: log ‖x − x̂‖, ‖μ‖, ‖σ‖, log p(x|z = μ) and log q(μ) − log p(μ), (B, 5), float64.

        After the likelihood path of Cai et al. 2024; the difference is one of what the encoder sees, so that numbers,
        categories and pixels can be added up.
        """
        mean, log_variance = self.vae.posterior(x)
        seen = reconstruction.unflatten(1, x.shape[1:])
        if self.shape is None:
            seen = torch.where(x.isnan(), x, seen)  # What is missing differs from nothing.
        difference = (self.vae.features(x) - self.vae.features(seen)).double()
        z, log_variance = mean.double()[:, None], log_variance.double()
        centre = torch.zeros_like(mean[:1].double())
        ratio = log_normal(centre, log_variance).sum((1, 2)) - self.vae.prior.log_prob(z)[:, 0]
        return torch.stack(
            [
                0.5 * torch.log((difference * difference).sum(1) + 1e-12),
                torch.sqrt((mean.double() * mean.double()).sum(1)),
                torch.sqrt(torch.exp(log_variance).sum(1)),
                self.vae.log_likelihood(x, mean[:, None])[:, 0],
                ratio,
            ],
            1,
        )

    def _typicality(self, statistics: Tensor) -> Tensor:
        """The squared Mahalanobis distance of the statistics from those of the normal rows (Ledoit and Wolf 2004).

        A row may be strange for too good a fit as well as for too bad a one (Nalisnick et al. 2019; Morningstar et al.
        2021, "Density of states estimation").
        """
        centred = statistics - self.location
        return (centred[:, :, None] * centred[:, None, :] * self.precision).flatten(1).sum(1)

    def rounding(self, x: Tensor, relative: float) -> Tensor:
        """By how much typicality may move, (B,), if each statistic is off by this share of its size, or of 1."""
        statistics = self._statistics(x, self._reconstruction(x))
        gradient = 2 * (statistics - self.location) @ self.precision
        return relative * (gradient.abs() * (1 + statistics.abs())).sum(1)

    def _multiscale_residual(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """The misfit seen from afar, over what pictures as rough as this one have: about 1 for a usual picture.

            misfit(x) · (roughness(x) / usual roughness)^−slope

        A striped shirt fits worse than a plain one and is as much a shirt, while a plain bag among shirts may fit well
        enough (on bounds: Serrà et al. 2020, "Input complexity and out-of-distribution detection"). The slope is that
        of a straight line through the logarithms for held-out rows. No roughness is less than theirs or above their
        upper quartile: more of it excuses no more, or pixels in random order would pass for a rough picture.
        """
        low, mean, high = self.roughness
        excess = torch.minimum(torch.maximum(self._log_roughness(x), low), high) - mean
        return self._misfit(x, reconstruction) * torch.exp(-self.slope * excess)

    def _log_roughness(self, x: Tensor) -> Tensor:
        """Log of the picture's total variation, the sum of |differences| of neighbouring pixels, plus one edge."""
        assert self.shape is not None  # noqa: S101 - of images only
        pixels = x.flatten(1).double().unflatten(1, self.shape)
        # The last pixel is its own neighbour: a picture of one row has no differences downward, and no tensor is empty.
        down, across = (torch.arange(size).add(1).clamp(max=size - 1) for size in self.shape[:2])
        differences = (pixels - pixels[:, down]).abs() + (pixels - pixels[:, :, across]).abs()
        return torch.log(differences.flatten(1).sum(1) + self.edge)

    def _misfit(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """Root mean square, over square windows of all sizes, of the residual's sum over its usual size there.

        Independent noise averages out within a window; a sleeve where none was expected does not, least of all where
        held-out rows have nothing. With Gaussian sums it is, up to constants, the mean log-likelihood ratio of
        "brighter or darker here than E[x|z]" against "not so" (scan statistics: Kulldorff 1997; averaged over windows:
        Chan and Walther 2013).
        """
        ratios = (self._windows(x, reconstruction) / self.usual).double()
        return torch.sqrt((ratios * ratios).mean(1))

    def _windows(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """The residual's sum over every window, over the root of its area, (B, windows), in data units."""
        assert self.shape is not None  # noqa: S101 - of images only
        residual = (x.flatten(1) - reconstruction).float().unflatten(1, self.shape).permute(0, 3, 1, 2)
        height, width, _ = self.shape
        sides = sorted({max(1, round(share * min(height, width))) for share in SIDES})
        # Sums over windows as products with banded matrices, which takes a tenth of what pooling does.
        windows = [window_sums(height, side) @ residual @ window_sums(width, side).T / side for side in sides]
        return torch.cat([window.flatten(1) for window in windows], 1)


def _shrunk_covariance(standard: Array) -> Array:
    """The covariance of statistics (N, S), shrunk by as much as Ledoit and Wolf say, and by at least 1/N².

    By their rule statistics of two values, each as often as the other, would not be shrunk, and be singular.
    """
    from sklearn import covariance  # noqa: PLC0415 - takes seconds, and a process that traces has no need

    if len(standard) < 2:
        return np.zeros(2 * standard.shape[1:])
    amount = max(covariance.ledoit_wolf_shrinkage(standard), len(standard) ** -2)
    shrunk: Array = covariance.shrunk_covariance(covariance.empirical_covariance(standard), amount)
    return shrunk


def window_sums(size: int, length: int) -> Tensor:
    """The matrix, (size − length + 1, size), that adds up every stretch of so many neighbours."""
    start = torch.arange(size - length + 1)[:, None]
    place = torch.arange(size)
    return ((start <= place) & (place < start + length)).float()
