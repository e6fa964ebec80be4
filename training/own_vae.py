"""A VAE of another training as a bundle: `export_vae`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter, ValidationError

from service.bundle import ImageInput, ModelName, NumericColumn, TabularInput
from service.errors import FileError
from training.datasets import Dataset, Splits, array_dataset, described
from training.model import LIKELIHOODS, VAE
from training.model.likelihoods import Likelihood, LikelihoodError
from training.model.likelihoods.gaussian import Gaussian
from training.model.likelihoods.pixels import Bernoulli, ContinuousBernoulli
from training.model.priors import Prior, StandardNormal
from training.own_networks import (
    Decoder,
    Encoder,
    Features,
    Network,
    apart,
    as_module,
    channels_last,
    has_channels_first,
    in_evaluation,
)
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
    encoder: Network,
    decoder: Network,
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
        encoder: A module on the CPU, or a method of one. x as the rows of `data`, or flat (B, D) if it does not take
            them so, float32 → mean and log-variance of q(z given x), (B, L) each, as a pair or side by side in one
            tensor. A missing cell comes as its column's mean.
        decoder: Likewise. z (B, L) → what the likelihood takes, (B, ...): of a Gaussian its mean in the units of
            `data`, and its σ is the root mean square of each feature's residuals; of the Bernoullis the logits.
        likelihood: p(x given z), by name, one of `NAMED`, or an object.
        data: The rows that it was trained on: (N, columns), NaN where missing; or (N, height, width[, channels]) or
            (N, channels, height, width), uint8 levels or floats in [0, 1]. The bundle has channels last. A frame of
            pandas or Polars names the columns; else they are x0, x1, ....
        held_out: As many of other normal rows as there are: p-values are made from half of them.
        prior: p(z); the standard normal, or an object.
        name: Of the model: small letters, digits, - and _.
        out: The repository: a folder or a URL.

    Returns:
        The bundle's folder, or its URL.

    Raises:
        FileError: The rows or the name are not as above, or the networks do not fit them.
        LikelihoodError: The rows have no such likelihood, or its name is none of `NAMED`.
        ExportError: PyTorch cannot translate a network, or a graph does not compute what it does; nothing is written.
    """
    dataset = _dataset(data, held_out)
    try:
        TypeAdapter(ModelName).validate_python(name)
    except ValidationError as error:
        raise FileError(f"name: {name!r}; give small letters, digits, - and _") from error
    if len(held_out) < _FEWEST:
        raise FileError(f"held_out: {len(held_out)} rows; give at least {_FEWEST}, at best some hundreds")
    if isinstance(prior, str) and prior != "standard_normal":
        raise ValueError(f"prior {prior!r}: give 'standard_normal', or an object")
    rows = dataset.rows[: len(data)]
    density = _likelihood(likelihood, dataset.input, rows)
    features = Features(dataset.input, rows)
    channels_first = has_channels_first(np.shape(data))
    encoder_module, decoder_module = as_module("encoder", encoder), as_module("decoder", decoder)
    origin = Origin(
        name,
        likelihood if isinstance(likelihood, str) else type(likelihood).__name__.lower(),
        prior if isinstance(prior, str) else type(prior).__name__.lower(),
        BoundRecipe(),
        {"encoder": _name_of(encoder), "decoder": _name_of(decoder)},
    )
    repository = open_repository(out if "://" in str(out) else Path(out))
    with in_evaluation(encoder_module, decoder_module):
        own_encoder = Encoder(encoder_module, dataset.input, features, channels_first)
        own_decoder = Decoder(apart(decoder_module, encoder_module), dataset.input, density, channels_first)
        latent_size = own_encoder.latent_size()
        own_decoder.check(latent_size)
        chosen = StandardNormal(latent_size, 0) if isinstance(prior, str) else prior
        vae = VAE(features, own_encoder, own_decoder, density, chosen).eval()
        _refuse_probabilities(vae, rows)
        if likelihood == "gaussian" and isinstance(density, Gaussian):
            _set_sigma(density, vae, rows)
        return write_bundle(vae, dataset, _splits(len(data), len(held_out)), origin, None, repository)


def _name_of(network: Network) -> str:
    """The class of a module, or a method as `VAE.encode`."""
    return getattr(network, "__qualname__", type(network).__name__)


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
    return array_dataset(argument, channels_last(array) if has_channels_first(array.shape) else array)


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
def _refuse_probabilities(vae: VAE, rows: npt.NDArray[Any]) -> None:
    """Refuse a decoder that ends in a sigmoid, where the likelihood takes logits.

    Raises:
        FileError: All that it gives for the first rows lies in [0, 1].
    """
    if not isinstance(vae.likelihood, Bernoulli | ContinuousBernoulli):
        return
    given = vae.decoder(vae.posterior(torch.from_numpy(np.ascontiguousarray(rows[:_ROWS])))[0])
    if given.min() >= 0 and given.max() <= 1:
        raise FileError(
            "decoder: gives numbers in [0, 1] alone, as a sigmoid does, where the likelihood takes logits; leave the "
            "sigmoid out, or for grey pixels choose 'gaussian', which takes their means"
        )


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
