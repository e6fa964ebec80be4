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
from training.fit.step import WARM_UP, Replay, Step, _aside
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

UNROLLED = (4, 8)
"""Steps in one graph."""

EVALUATED = 16
"""Draws of the held-out bounds."""

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


def unrolled(seconds: float) -> Iterator[str]:
    """Steps a second one by one, of several in one graph with noise drawn in it, and compiled; and evaluations.

    The noise of single steps is drawn outside, as training does it.
    """
    yield "| recipe | one in a graph | " + " | ".join(f"{number} in a graph" for number in UNROLLED) + " | compiled |"
    yield "|---|" + "---:|" * (2 + len(UNROLLED))
    evaluations = []
    for name in ("digits", "table"):
        recipe, data = Recipe.read(name, ["--data", "unused"]), RECIPES[name]
        x = _rows(data, recipe.fit.batch_size)
        vae = build(recipe.model, data, x.numpy(), 0)
        rates = [_rate(_steps(copy.deepcopy(vae), recipe.fit, x, True, fresh=True), seconds)]
        rates += [n * _rate(_several(copy.deepcopy(vae), recipe.fit, x, n), seconds) for n in UNROLLED]
        compiled = ""
        if torch.cuda.is_available():  # On the CPU compilation takes a minute.
            own = _several(copy.deepcopy(vae), recipe.fit, x, UNROLLED[0], compiled=True)
            compiled = f"{UNROLLED[0] * _rate(own, seconds):,.0f}"
        yield f"| `{name}` | " + " | ".join(f"{rate:,.0f}" for rate in rates) + f" | {compiled} |"
        evaluations.append((name, *(_rate(call, seconds) for call in _evaluations(vae, x))))
    yield ""
    yield f"| evaluations of {EVALUATED} draws a second | operation by operation | captured |"
    yield "|---|---:|---:|"
    for name, plain, captured in evaluations:
        yield f"| `{name}` | {plain:,.0f} | {captured:,.0f} |"


def _several(vae: VAE, recipe: FitRecipe, x: Tensor, number: int, *, compiled: bool = False) -> Callable[[], object]:
    """What takes so many steps, in one captured graph where there is a GPU, whose noise comes from a generator."""
    accelerator = Accelerator()
    step = Step(vae, recipe, accelerator)
    if compiled:
        step.objective = torch.compile(step.objective)
    x = x.to(accelerator.device)
    generator = torch.Generator(accelerator.device).manual_seed(0)
    shape = (len(x), recipe.num_draws, vae.prior.latent_size)
    weight = torch.ones((), device=x.device)

    def take() -> Tensor:
        for _ in range(number):
            sums = step._take(x, torch.randn(shape, generator=generator, device=x.device), weight)
        return sums

    for _ in range(WARM_UP):
        step(x, torch.randn(shape, generator=generator, device=x.device), 1.0, 0.0)
    if not step.captured:
        return take
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)  # Each replay then draws other noise.
    with torch.cuda.graph(graph):
        take()
    return graph.replay


def _evaluations(vae: VAE, x: Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    """What computes the held-out bounds of a batch, operation by operation, and captured where there is a GPU."""
    device = Accelerator().device
    vae, x = vae.to(device).eval(), x.to(device)
    base_samples = torch.randn(EVALUATED, vae.prior.latent_size, device=device)

    @torch.no_grad()
    def evaluate() -> Tensor:
        return torch.stack([bound.sum() for bound in vae.bounds(x, base_samples)])

    if device.type != "cuda":
        return evaluate, evaluate
    _aside(evaluate)
    replay = Replay(evaluate)
    return evaluate, replay


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


def _steps(vae: VAE, recipe: FitRecipe, x: Tensor, captured: bool, *, fresh: bool = False) -> Callable[[], object]:
    """What takes one step of the same batch after another, with the same noise or with fresh noise."""
    accelerator = Accelerator()
    step = Step(vae, recipe, accelerator)
    step.captured &= captured
    noise = torch.randn(len(x), recipe.num_draws, vae.prior.latent_size, generator=torch.Generator().manual_seed(0))
    x, noise = x.to(accelerator.device), noise.to(accelerator.device)
    return lambda: step(x, torch.randn_like(noise) if fresh else noise, 1.0, 0.0)


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
