"""A VAE of another training as a bundle: `export_vae`."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from service.bundle import ImageInput, ModelName, NumericColumn, TabularInput
from service.errors import FileError
from training.datasets import Dataset, Splits, array_dataset, described
from training.model import LIKELIHOODS, VAE
from training.model.likelihoods import Likelihood, LikelihoodError
from training.model.likelihoods.gaussian import Gaussian
from training.model.priors import Prior, StandardNormal
from training.model.scales import moments
from training.publish import Origin, open_repository, write_bundle
from training.recipes import BoundRecipe

NAMED = ("gaussian", "bernoulli", "continuous_bernoulli")
"""Likelihoods that a name is enough for: the decoder of another training gives what they take."""

_SHARES = (0.25, 0.75)
"""Held-out rows up to the first share say what is typical, those up to the second calibrate, and the others test."""

_FEWEST = 4
"""Held-out rows, of which each part has one."""

_ROWS = 256


def export_vae(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    likelihood: str | Likelihood,
    data: Any,
    held_out: Any,
    prior: str | Prior = "standard_normal",
    name: str = "mine",
    out: Path | str = "models",
) -> Path | str:
    """Write a trained PyTorch VAE as a bundle: every graph, compared with PyTorch, the calibration and the card.

    Args:
        encoder: x (B, *shape), float32 in the units of `data` → mean and log-variance of q(z given x), (B, L) each, as
            a pair or side by side in one tensor. A missing cell comes as its column's mean.
        decoder: z (B, L) → what the likelihood takes, (B, ...): of a Gaussian its mean in the units of `data`, and its
            σ is the root mean square of each feature's residuals; of the Bernoullis the logits.
        likelihood: p(x given z), by name, one of `NAMED`, or an object.
        data: The rows that it was trained on: (N, columns), NaN where missing, or (N, height, width[, channels]), uint8
            levels or floats in [0, 1]. A frame of pandas or Polars names the columns; else they are x0, x1, ....
        held_out: As many of other normal rows as there are: p-values are made from half of them.
        prior: p(z); the standard normal, or an object.
        name: Of the model: small letters, digits, - and _.
        out: The repository: a folder or a URL.

    Returns:
        The bundle's folder, or its URL.

    Raises:
        FileError: The rows or the name are not as above, or the networks do not fit them.
        LikelihoodError: The rows have no such likelihood, or its name is none of `NAMED`.
        ExportError: A graph does not compute what PyTorch computes; nothing is written.
    """
    dataset = _dataset(data, held_out)
    try:
        TypeAdapter(ModelName).validate_python(name)
    except ValidationError as error:
        raise FileError(f"name: {name!r}; give small letters, digits, - and _") from error
    if len(held_out) < _FEWEST:
        raise FileError(f"held_out: {len(held_out)} rows; give at least {_FEWEST}, at best some hundreds")
    rows = dataset.rows[: len(data)]
    decoder.eval()
    features = _Features(dataset.input, rows)
    own = _Encoder(encoder.eval(), dataset.input, features)
    latent_size = own.latent_size(math.prod(dataset.input.shape))
    if isinstance(prior, str) and prior != "standard_normal":
        raise ValueError(f"prior {prior!r}: give 'standard_normal', or an object")
    density = _likelihood(likelihood, dataset.input, rows)
    chosen = StandardNormal(latent_size, 0) if isinstance(prior, str) else prior
    vae = VAE(features, own, _Decoder(decoder, density), density, chosen).eval()
    _check_decoder(decoder, latent_size, density.num_params)
    if likelihood == "gaussian" and isinstance(density, Gaussian):
        _set_sigma(density, vae, rows)
    origin = Origin(
        name,
        likelihood if isinstance(likelihood, str) else type(likelihood).__name__.lower(),
        prior if isinstance(prior, str) else type(prior).__name__.lower(),
        BoundRecipe(),
        {"encoder": type(encoder).__name__, "decoder": type(decoder).__name__},
    )
    repository = open_repository(out if "://" in str(out) else Path(out))
    return write_bundle(vae, dataset, _splits(len(data), len(held_out)), origin, None, repository)


class _Features(nn.Module):
    """x (B, *shape) in units of each feature's scale, (B, D): what reconstructions are compared in."""

    location: Tensor
    scale: Tensor

    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__()
        if isinstance(data, ImageInput):
            size = len(data.features)
            location, scale = torch.full((size,), data.low), torch.full((size,), data.high - data.low)
        else:
            location, scale = moments(rows)
        self.register_buffer("location", location.double())
        self.register_buffer("scale", scale.double())

    def forward(self, x: Tensor) -> Tensor:
        standard = (x.flatten(1) - self.location) / self.scale
        return torch.where(standard.isnan(), 0.0, standard).float()

    def units(self, x: Tensor) -> Tensor:
        return self.scale


class _Encoder(nn.Module):
    """The other training's encoder behind `_Features`, whose scaling it takes back; mean and log-variance (B, 2L)."""

    location: Tensor
    scale: Tensor

    def __init__(self, encoder: nn.Module, data: ImageInput | TabularInput, features: _Features) -> None:
        super().__init__()
        self.encoder = encoder
        self.shape = data.shape
        self.register_buffer("location", features.location.clone())
        self.register_buffer("scale", features.scale.clone())

    def forward(self, standard: Tensor) -> Tensor:
        x = (standard * self.scale + self.location).float().unflatten(1, self.shape)
        answer = self.encoder(x)
        return answer if isinstance(answer, Tensor) else torch.cat(tuple(answer), 1)

    @torch.no_grad()
    def latent_size(self, features: int) -> int:
        """L, by the answer to a row of so many features.

        Raises:
            FileError: The answer is no mean and log-variance.
        """
        shape = tuple(self(torch.zeros(2, features)).shape)
        if len(shape) != 2 or shape[0] != 2 or shape[1] % 2:
            raise FileError(f"encoder: gives {shape} for 2 rows; give mean and log-variance, (2, L) each")
        return shape[1] // 2


class _Decoder(nn.Module):
    """The other training's decoder, with a Gaussian's means in the likelihood's units."""

    location: Tensor
    scale: Tensor

    def __init__(self, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.decoder = decoder
        if isinstance(likelihood, Gaussian):
            self.register_buffer("location", likelihood.location.clone())
            self.register_buffer("scale", likelihood.scale.clone())

    def forward(self, z: Tensor) -> Tensor:
        answer: Tensor = self.decoder(z).flatten(1)
        return ((answer - self.location) / self.scale).float() if hasattr(self, "scale") else answer


@torch.no_grad()
def _check_decoder(decoder: nn.Module, latent_size: int, num_params: int) -> None:
    """Refuse a decoder that gives other numbers than the likelihood takes."""
    shape = tuple(decoder(torch.zeros(2, latent_size)).shape)
    if shape[0] != 2 or math.prod(shape) != 2 * num_params:
        raise FileError(f"decoder: gives {shape} for 2 rows; the likelihood takes {num_params} numbers a row")


def _dataset(data: Any, held_out: Any) -> Dataset:
    names = [str(name) for name in getattr(data, "columns", ())]
    of_others = [str(name) for name in getattr(held_out, "columns", names)]
    if names and of_others != names:
        raise FileError(f"held_out: the columns {', '.join(of_others)}; give {', '.join(names)}, as data has them")
    dataset, others = _rows("data", data), _rows("held_out", held_out)
    if others.input != dataset.input:
        raise FileError(f"held_out: {described(others.input)}, where data holds {described(dataset.input)}")
    rows = np.concatenate([dataset.rows, others.rows])
    if not names or not isinstance(dataset.input, TabularInput):
        return replace(dataset, rows=rows)
    return replace(dataset, input=TabularInput(columns=tuple(NumericColumn(name=name) for name in names)), rows=rows)


def _rows(argument: str, rows: Any) -> Dataset:
    array = np.asarray(rows)
    if array.dtype.kind not in "biuf":
        raise FileError(f"{argument}: cells of dtype {array.dtype}; give the numbers that the encoder takes")
    return array_dataset(argument, array)


def _splits(trained_on: int, held_out: int) -> Splits:
    order = trained_on + np.random.default_rng(0).permutation(held_out)
    parts = np.split(order, [int(share * held_out) for share in _SHARES])
    return Splits(np.arange(trained_on), *(np.sort(part) for part in parts))


def _likelihood(likelihood: str | Likelihood, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> Likelihood:
    if isinstance(likelihood, Likelihood):
        return likelihood
    if likelihood not in NAMED:
        raise LikelihoodError(f"likelihood {likelihood!r}: give one of {', '.join(NAMED)}, or an object")
    return LIKELIHOODS[likelihood](data, rows)


@torch.no_grad()
def _set_sigma(density: Gaussian, vae: VAE, rows: npt.NDArray[Any]) -> None:
    """Set each feature's σ to the root mean square of its residuals at the posterior's mean, above its floor."""
    total, count = torch.zeros(density.num_params), torch.zeros(density.num_params)
    for x in torch.from_numpy(np.ascontiguousarray(rows)).split(_ROWS):
        residual, missing = density.residual(vae.decoder(vae.posterior(x)[0]), x.flatten(1))
        total += torch.where(missing, 0.0, residual**2).sum(0)
        count += (~missing).sum(0)
    above = 0.5 * torch.log(total / count) - density.log_floor
    density.free_log_sigma.copy_(density.log_floor + torch.log(torch.expm1(above.clamp(1e-6))))
