"""Steps of training: each operation by itself, and captured as CUDA graphs."""

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from service.bundle import ImageInput, NumericColumn, TabularInput
from tests.training.kinds import KINDS, accepted
from training.fit import FitRecipe
from training.fit.step import Step
from training.model import LIKELIHOODS, PRIORS, VAE, ModelRecipe
from training.model.build import build
from training.recipes import Recipe

BINARISED = ImageInput(shape=(28, 28), dtype="uint8", low=0, high=1)
RECIPES: dict[str, ImageInput | TabularInput] = {
    "digits": ImageInput(shape=(8, 8), dtype="uint8", low=0, high=16),
    "table": TabularInput(columns=tuple(NumericColumn(name=f"x{i}") for i in range(30))),
    "fashion-mnist": ImageInput(shape=(28, 28), dtype="uint8", low=0, high=255),
    "nll-mlp.yaml": BINARISED,
    "nll-mlp-importance.yaml --fit.batch_size 500": BINARISED,
    "nll-conv.yaml --fit.batch_size 500": BINARISED,
}
NLL_RECIPES = Path(__file__).parents[1] / "detection" / "recipes"

COMPARED = 20
"""Steps after which weights are compared."""


def speeds(seconds: float) -> Iterator[str]:
    """Steps a second of each recipe's model and batch, on random rows."""
    yield "| recipe | rows × draws | one by one | captured | × |"
    yield "|---|---:|---:|---:|---:|"
    for arguments, data in RECIPES.items():
        name, *corrections = arguments.split()
        path = str(NLL_RECIPES / name) if name.endswith(".yaml") else name
        recipe = Recipe.read(path, ["--data", "unused", *corrections])
        x = _rows(data, recipe.fit.batch_size)
        vae = build(recipe.model, data, x.numpy(), 0)
        plain, captured = (_rate(_steps(copy.deepcopy(vae), recipe.fit, x, way), seconds) for way in (False, True))
        draws = f"{len(x)} × {recipe.fit.num_draws}"
        yield f"| `{arguments}` | {draws} | {plain:,.0f} | {captured:,.0f} | {captured / plain:.1f} |"


def differences() -> Iterator[str]:
    """How far steps move the weights of each likelihood, and how far capturing them does; of all data and priors."""
    yield f"| likelihood | {COMPARED} steps move a weight by at most | captured, they are off by at most |"
    yield "|---|---:|---:|"
    for likelihood in LIKELIHOODS:
        moved, off = np.max([_moves(likelihood, k, p) for n, k in accepted() if n == likelihood for p in PRIORS], 0)
        yield f"| `{likelihood}` | {moved:.1e} | {off:.1e} |"


def _moves(likelihood: str, kind: str, prior: str) -> tuple[float, float]:
    model = ModelRecipe(widths=(16,), latent_size=3, likelihood=likelihood, prior=prior, components=4)
    rows = KINDS[kind].rows
    vae = build(model, KINDS[kind].data, rows, 0)
    plain, captured = copy.deepcopy(vae), copy.deepcopy(vae)
    for trained in (plain, captured):
        step = _steps(trained, FitRecipe(batch_size=len(rows)), torch.from_numpy(rows), trained is captured)
        for _ in range(COMPARED):
            step()
    weights = _weights(plain)
    return float((weights - _weights(vae)).abs().max()), float((weights - _weights(captured)).abs().max())


def _steps(vae: VAE, recipe: FitRecipe, x: Tensor, captured: bool) -> Callable[[], object]:
    """What takes one step of the same batch after another."""
    accelerator = Accelerator()
    step = Step(vae, recipe, accelerator)
    step.captured &= captured
    noise = torch.randn(len(x), recipe.num_draws, vae.prior.latent_size, generator=torch.Generator().manual_seed(0))
    x, noise = x.to(accelerator.device), noise.to(accelerator.device)
    return lambda: step(x, noise, 1.0, 0.0)


def _rate(step: Callable[[], object], seconds: float) -> float:
    for _ in range(10):
        step()
    _synchronize()
    number, started = 0, time.perf_counter()
    while time.perf_counter() < started + seconds:
        for _ in range(10):
            step()
        number += 10
        _synchronize()
    return number / (time.perf_counter() - started)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _rows(data: ImageInput | TabularInput, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if isinstance(data, TabularInput):
        return torch.randn(number, len(data.columns), dtype=torch.float64, generator=generator)
    return torch.randint(int(data.high) + 1, (number, *data.shape), dtype=torch.uint8, generator=generator)


def _weights(vae: VAE) -> Tensor:
    return torch.cat([parameter.detach().double().flatten().cpu() for parameter in vae.parameters()])
