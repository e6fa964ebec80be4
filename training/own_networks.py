"""Networks of another training, called with rows in its own layout and units."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from service.bundle import ImageInput, TabularInput
from service.errors import FileError
from training.model.likelihoods import Likelihood
from training.model.likelihoods.gaussian import Gaussian
from training.model.scales import location_and_scale

Network = Callable[..., Any]
"""A module, or a method of one."""

_CHANNELS = (1, 3)


def has_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether rows of this shape are pictures as PyTorch has them, (rows, channels, height, width)."""
    return len(shape) == 4 and shape[1] in _CHANNELS and shape[3] not in _CHANNELS


def channels_last(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Pictures as bundles have them: (rows, height, width, 3), or (rows, height, width) of one channel."""
    return array[:, 0] if array.shape[1] == 1 else np.moveaxis(array, 1, 3)


def as_module(argument: str, network: Network) -> nn.Module:
    """The network as a module on the CPU.

    Raises:
        FileError: It is neither a module nor a method of one, or its weights are on another device.
    """
    if not isinstance(network, nn.Module):
        if not isinstance(getattr(network, "__self__", None), nn.Module):
            raise FileError(f"{argument}: a {type(network).__name__}; give a module, or a method of one")
        network = _Method(network)
    for weights in (*network.parameters(), *network.buffers()):
        if weights.device.type != "cpu":
            raise FileError(f"{argument}: its weights are on {weights.device}; move them to the CPU first, by .cpu()")
    return network


@contextmanager
def in_evaluation(*networks: nn.Module) -> Iterator[None]:
    """Have the networks without dropout and the like, and leave them as they were."""
    training = {module: module.training for network in networks for module in network.modules()}
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def apart(network: nn.Module, other: nn.Module) -> nn.Module:
    """The network, or a copy where the other one has modules of it, as both methods of a VAE have the whole VAE.

    A model that is traced has each module in one place; weights that are equal are in the bundle once.
    """
    parts = {id(part) for part in other.modules()}
    return copy.deepcopy(network) if any(id(part) in parts for part in network.modules()) else network


class _Method(nn.Module):
    """A method of a module, as `vae.encode`."""

    def __init__(self, method: Any) -> None:
        super().__init__()
        self.owner = method.__self__
        self.method = method

    def forward(self, x: Tensor) -> Any:
        return self.method(x)


class Features(nn.Module):
    """x (B, *shape) in units of each feature's scale, (B, D): what reconstructions are compared in."""

    location: Tensor
    scale: Tensor

    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__()
        location, scale = location_and_scale(data, rows)
        self.register_buffer("location", location)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        standard = (x.flatten(1) - self.location) / self.scale
        return torch.where(standard.isnan(), 0.0, standard).float()

    def units(self, x: Tensor) -> Tensor:
        return self.scale


class Encoder(nn.Module):
    """The encoder behind `Features`, whose scaling it takes back; mean and log-variance (B, 2L)."""

    location: Tensor
    scale: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        data: ImageInput | TabularInput,
        features: Features,
        channels_first: bool,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.shape = data.shape
        self.channels_first = channels_first
        self.flat = False
        self.register_buffer("location", features.location.clone())
        self.register_buffer("scale", features.scale.clone())

    def forward(self, standard: Tensor) -> Tensor:
        answer = self._answer(standard)
        return answer if isinstance(answer, Tensor) else torch.cat(answer, 1)

    def _answer(self, standard: Tensor) -> Any:
        answer = self.encoder(self._as_theirs(standard))
        if isinstance(answer, Tensor):
            return answer
        return tuple(answer.values() if isinstance(answer, Mapping) else answer)

    def _as_theirs(self, standard: Tensor) -> Tensor:
        x = (standard * self.scale + self.location).float().unflatten(1, self.shape)
        if self.channels_first:
            # One channel is not moved: its strides would look like those of channels last, and stay so in convolutions.
            x = x.unsqueeze(1) if len(self.shape) == 2 else x.movedim(3, 1).contiguous()
        return x.flatten(1) if self.flat else x

    @torch.no_grad()
    def latent_size(self) -> int:
        """L, by the answer to two rows; an encoder that refuses pictures gets them flat from then on.

        Raises:
            FileError: The answer is no mean and log-variance.
        """
        rows = torch.zeros(2, math.prod(self.shape))
        given = tuple(self._as_theirs(rows).shape)
        try:
            return _latent_size(self._answer(rows))
        except Exception as error:  # Networks raise several kinds for another shape, or answer something else.
            self.flat = True
            try:
                return _latent_size(self._answer(rows))
            except Exception:
                error.add_note(f"The encoder was given x of shape {given}, as `data` has its rows, and flat")
                raise error from None


def _latent_size(answer: Any) -> int:
    """L, where an encoder answers two rows with a mean and a log-variance, as a pair or side by side."""
    parts = (answer,) if isinstance(answer, Tensor) else answer
    shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
    match shapes:
        case [(2, int(both))] if isinstance(answer, Tensor) and both % 2 == 0:
            return both // 2
        case [(2, int(mean)), (2, int(log_variance))] if mean == log_variance:
            return mean
    told = " and ".join(map(str, shapes))
    raise FileError(f"encoder: gives {told} for 2 rows; give mean and log-variance, (2, L) each")


class Decoder(nn.Module):
    """The decoder, with channels last and a Gaussian's means in the likelihood's units."""

    location: Tensor
    scale: Tensor

    def __init__(
        self,
        decoder: nn.Module,
        data: ImageInput | TabularInput,
        likelihood: Likelihood,
        channels_first: bool,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.num_params = likelihood.num_params
        self.shape = data.shape
        self.channels_first = channels_first and self.num_params == math.prod(data.shape)
        if isinstance(likelihood, Gaussian):
            self.register_buffer("location", likelihood.location.clone())
            self.register_buffer("scale", likelihood.scale.clone())

    def forward(self, z: Tensor) -> Tensor:
        answer = self._answer(z).flatten(1)
        if self.channels_first:
            answer = answer.unflatten(1, (-1, *self.shape[:2])).movedim(1, 3).flatten(1)
        return ((answer - self.location) / self.scale).float() if hasattr(self, "scale") else answer

    def _answer(self, z: Tensor) -> Tensor:
        answer = self.decoder(z)
        return next(iter(answer.values())) if isinstance(answer, Mapping) else answer

    @torch.no_grad()
    def check(self, latent_size: int) -> None:
        """Refuse a decoder that gives other numbers than the likelihood takes.

        Raises:
            FileError: It does, or has its channels where `data` has them not.
        """
        answer = self._answer(torch.zeros(2, latent_size))
        if not isinstance(answer, Tensor):
            raise FileError(f"decoder: gives a {type(answer).__name__}; give one tensor")
        shape = tuple(answer.shape)
        if shape[:1] != (2,) or answer.numel() != 2 * self.num_params:
            raise FileError(f"decoder: gives {shape} for 2 rows; the likelihood takes {self.num_params} numbers a row")
        if len(shape) == 4 and len(self.shape) == 3 and self.num_params == math.prod(self.shape):
            height, width, channels = self.shape
            wanted = (2, channels, height, width) if self.channels_first else (2, height, width, channels)
            if shape != wanted:
                raise FileError(f"decoder: gives {shape} for 2 rows; give {wanted}, or have the channels of data so")
