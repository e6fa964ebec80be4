"""Scores beside the bound that one pass through the networks gives: typicality, and for images the multiscale residual.

Both look at the posterior's mean alone, so they need no noise, and are the same under any seed and number of draws.
"""

import numpy as np
import torch
from torch import Tensor, nn

from service.bundle import Array, ImageInput, TabularInput
from service.engine import fitting
from training.model import VAE
from training.model.vae import log_normal

SIDES = (1 / 9, 1 / 6, 1 / 4, 1 / 3)
"""Sizes of the multiscale residual's windows, as shares of the picture's shorter side: from a strap to a sleeve."""

_ROWS = 256
"""That are computed at once when the judge is fitted."""


class SinglePassScores(nn.Module):
    """The graph `scores` of a trained VAE.

    `normal` are held-out rows that neither train nor calibrate, (N, *shape), raw: what is typical.
    """

    location: Tensor
    precision: Tensor

    def __init__(self, vae: VAE, data: ImageInput | TabularInput, normal: Array) -> None:

        super().__init__()
        self.vae = vae
        self.shape = (*data.shape, 1)[:3] if isinstance(data, ImageInput) else None
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
        """The misfit seen from afar: pictures are compared window by window, not pixel by pixel, in data units.

        Root mean square, over all square windows of four sizes, of the residual's sum over the root of the window's
        area. Independent noise averages out within a window; a sleeve where none was expected does not. Under a
        Gaussian with one σ it is, up to constants, the mean log-likelihood ratio of "brighter or darker here than
        E[x|z]" against "not so" (scan statistics: Kulldorff 1997; averaged over windows: Chan and Walther 2013).
        """
        assert self.shape is not None  # noqa: S101 - of images only
        residual = (x.flatten(1) - reconstruction).float().unflatten(1, self.shape).permute(0, 3, 1, 2)
        height, width, _ = self.shape
        sides = sorted({max(1, round(share * min(height, width))) for share in SIDES})
        # Sums over windows as products with banded matrices, which takes a tenth of what pooling does.
        windows = [window_sums(height, side) @ residual @ window_sums(width, side).T / side for side in sides]
        squares = torch.cat([window.flatten(1) for window in windows], 1).double()
        return torch.sqrt((squares * squares).mean(1))


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
