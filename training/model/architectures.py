"""Architectures: pairs of an encoder network, features → 2L numbers, and a decoder network, L → num_params numbers.

Only operations whose answer for a row does not depend on the batch: no batch normalisation.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from service.bundle import ImageInput, TabularInput
from service.errors import LowerboundError


class ArchitectureError(LowerboundError):
    """An architecture that cannot take this data."""


class Gated(nn.Module):
    """h ⊙ σ(g), where one layer of twice the width computes h and g (Dauphin et al. 2017; Tomczak and Welling 2018).

    Args:
        layer: Has twice as many outputs as this module; they are split along dimension 1.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        h, gate = self.layer(x).chunk(2, dim=1)
        return h * torch.sigmoid(gate)


def gated_mlp(
    data: ImageInput | TabularInput, num_features: int, num_params: int, latent_size: int, widths: Sequence[int]
) -> tuple[nn.Sequential, nn.Sequential]:
    """Gated layers of these widths; the decoder has them in reverse."""

    def layers(sizes: Sequence[int], outputs: int) -> nn.Sequential:
        gated = [Gated(nn.Linear(before, 2 * after)) for before, after in pairwise(sizes)]
        return nn.Sequential(*gated, nn.Linear(sizes[-1], outputs))

    return layers([num_features, *widths], 2 * latent_size), layers([latent_size, *reversed(widths)], num_params)


class Skip(nn.Module):
    """A linear map plus a network whose last layer starts at zero: training starts with the linear model."""

    def __init__(self, inputs: int, network: nn.Sequential) -> None:
        super().__init__()
        last = network[-1]
        assert isinstance(last, nn.Linear)  # noqa: S101 - as `gated_mlp` makes it
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.linear = nn.Linear(inputs, last.out_features)
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.network(x)


def skip_mlp(
    data: ImageInput | TabularInput, num_features: int, num_params: int, latent_size: int, widths: Sequence[int]
) -> tuple[nn.Module, nn.Module]:
    """As `gated_mlp`, each network beside a linear one: what probabilistic PCA can do needs no hidden units."""
    encoder, decoder = gated_mlp(data, num_features, num_params, latent_size, widths)
    return Skip(num_features, encoder), Skip(latent_size, decoder)


def convolutional(
    data: ImageInput | TabularInput, num_features: int, num_params: int, latent_size: int, widths: Sequence[int]
) -> tuple[nn.Module, nn.Module]:
    """Gated convolutions, each halving the picture, with these numbers of channels; the decoder mirrors them."""
    if not isinstance(data, ImageInput):
        raise ArchitectureError("convolutional is an architecture for images")
    height, width, channels = (*data.shape, 1)[:3]
    return (
        ConvolutionalEncoder(height, width, channels, widths, 2 * latent_size),
        ConvolutionalDecoder(height, width, channels, num_params // num_features, widths, latent_size),
    )


class ConvolutionalEncoder(nn.Module):
    """(B, H·W·C) in the order of the pixels → (B, outputs)."""

    def __init__(self, height: int, width: int, channels: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.shape = (height, width, channels)
        self.convolutions = nn.Sequential(
            *(
                Gated(nn.Conv2d(before, 2 * after, kernel_size=3, stride=2, padding=1))
                for before, after in pairwise([channels, *widths])
            )
        )
        rows, columns = halvings(height, width, len(widths))[-1]
        self.head = nn.Linear(widths[-1] * rows * columns, outputs)

    def forward(self, x: Tensor) -> Tensor:
        planes = x.unflatten(1, self.shape).permute(0, 3, 1, 2)
        return self.head(self.convolutions(planes).flatten(1))


class ConvolutionalDecoder(nn.Module):
    """(B, L) → (B, params·H·W·C): parameter by parameter, each in the order of the pixels."""

    def __init__(
        self, height: int, width: int, channels: int, params: int, widths: Sequence[int], latent_size: int
    ) -> None:
        super().__init__()
        self.planes = (params, channels)
        self.sizes = halvings(height, width, len(widths))[::-1]
        rows, columns = self.sizes[0]
        self.first = (widths[-1], rows, columns)
        self.stem = Gated(nn.Linear(latent_size, 2 * widths[-1] * rows * columns))
        self.steps = nn.ModuleList(
            Gated(nn.ConvTranspose2d(before, 2 * after, kernel_size=4, stride=2, padding=1))
            for before, after in pairwise([*reversed(widths), widths[0]])
        )
        self.head = nn.Conv2d(widths[0], params * channels, kernel_size=3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.stem(z).unflatten(1, self.first)
        for step, (rows, columns) in zip(self.steps, self.sizes[1:], strict=True):
            # Doubling overshoots odd sizes by one row or column.
            h = step(h)[:, :, :rows, :columns]
        return self.head(h).unflatten(1, self.planes).movedim(2, -1).flatten(1)


def halvings(height: int, width: int, times: int) -> list[tuple[int, int]]:
    """The picture's sizes: as it is, and after each halving, rounded up."""
    sizes = [(height, width)]
    for _ in range(times):
        height, width = (height + 1) // 2, (width + 1) // 2
        sizes.append((height, width))
    return sizes


Architecture = Callable[[ImageInput | TabularInput, int, int, int, Sequence[int]], tuple[nn.Module, nn.Module]]
ARCHITECTURES: dict[str, Architecture] = {"gated_mlp": gated_mlp, "skip_mlp": skip_mlp, "convolutional": convolutional}
