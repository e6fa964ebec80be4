"""The model that every server answers from: a 784-512-512-32 MLP VAE on (28, 28) uint8 images, one draw.

Encoder 784-512-512-64 (mean and log-variance), decoder 32-512-512-784, ReLU between layers, likelihood
`gaussian_shared`, weights as drawn: speed does not depend on what was learned. The project's own architectures are
gated or residual, at about twice the cost, so the textbook's plain one is registered here. The bundle is written by the
trainer's own last stage; peers get the very same elbo graph with its weights in one file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from torch import nn

from service.bundle import ImageInput, TabularInput
from service.storage import LocalStore
from training.datasets import split
from training.fit import Epoch
from training.model import ARCHITECTURES, VAE
from training.model.build import build
from training.publish import publish
from training.recipes import Recipe

NUM_ROWS = 1024
GRAPH = "elbo.onnx"
NOISE = "noise.npy"

_RECIPE = (
    *("--name", "reference", "--model.architecture", "plain_mlp", "--model.widths", "[512,512]"),
    *("--model.latent_size", "32", "--model.likelihood", "gaussian_shared", "--bound.num_draws", "1"),
)
_UNTRAINED = Epoch(**{field.name: 0.0 for field in fields(Epoch)} | {"epoch": 1, "active_units": 0})


@dataclass(frozen=True)
class Reference:
    """The written model.

    Attributes:
        models: A repository with the one bundle.
        peers: A folder with `GRAPH`, whole, and `NOISE`, (1, L).
        rows: Images to ask about, (NUM_ROWS, 28, 28), uint8; half of the pixels are 0, as in scanned digits.
        vae: The same in PyTorch.
    """

    models: Path
    peers: Path
    rows: npt.NDArray[np.uint8]
    vae: VAE


def plain_mlp(
    data: ImageInput | TabularInput, num_features: int, num_params: int, latent_size: int, widths: Sequence[int]
) -> tuple[nn.Module, nn.Module]:
    """Linear layers of these widths with ReLU between them; the decoder has them in reverse."""

    def layers(sizes: Sequence[int], outputs: int) -> nn.Module:
        hidden = [layer for before, after in pairwise(sizes) for layer in (nn.Linear(before, after), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(sizes[-1], outputs))

    return layers([num_features, *widths], 2 * latent_size), layers([latent_size, *reversed(widths)], num_params)


def write_reference(folder: Path) -> Reference:
    """Write the bundle and the peers' files under `folder`."""
    ARCHITECTURES["plain_mlp"] = plain_mlp
    generator = np.random.default_rng(0)
    shape = (NUM_ROWS, 28, 28)
    rows = generator.integers(1, 256, shape, np.uint8) * generator.integers(0, 2, shape, np.uint8)
    np.save(folder / "rows.npy", rows)

    out = ("--data", str(folder / "rows.npy"), "--out", str(folder / "models"))
    recipe = Recipe.read("arrays", [*out, *_RECIPE])
    dataset = recipe.dataset.load(recipe.data)
    splits = split(dataset, recipe.split)
    vae = build(recipe.model, dataset.input, dataset.rows[splits.train], recipe.fit.seed)
    bundle = Path(publish(vae, dataset, splits, recipe, [_UNTRAINED], LocalStore(folder / "models")))

    peers = folder / "peers"
    peers.mkdir()
    onnx.save(onnx.load(bundle / GRAPH), peers / GRAPH)
    with np.load(bundle / "calibration.npz", allow_pickle=False) as calibration:
        np.save(peers / NOISE, calibration["noise"])
    return Reference(folder / "models", peers, rows, vae)
