"""Other ways to export the graph of the bounds, which a card may decide for."""

import contextlib
import functools
from collections.abc import Iterator
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from service.bundle import Array, Graph, ImageInput, NumericColumn, TabularInput
from service.bundle.graphs import graph_contract
from service.engine import OnnxEngine
from service.scoring import noise
from tests.benchmarks.gpu.tables import Bench, measured_rate, table
from training.export.graphs import graph_modules
from training.export.onnx import share_weights, to_onnx, trace
from training.model import ModelRecipe
from training.model.build import build
from training.model.likelihoods.gaussian import LOG_2PI, GaussianShared

ROWS, DRAWS, LATENTS = 4096, 16, 32
PARTS = 28
"""Squares that are added up in float32."""

IMAGE = ImageInput(shape=(28, 28), dtype="uint8", low=0, high=255)
BINARISED = ImageInput(shape=(28, 28), dtype="uint8", low=0, high=1)
TABLE = TabularInput(columns=tuple(NumericColumn(name=f"x{i}") for i in range(30)))
LIKELIHOODS: dict[str, ImageInput | TabularInput] = {
    "gaussian_shared": IMAGE,
    "bernoulli": BINARISED,
    "discretized_logistic": IMAGE,
    "mixed": TABLE,
}


def variants(bench: Bench) -> Iterator[str]:
    """Rows a second of `elbo`: as it is exported, without batch invariance, and with squares added up in float32."""
    rows = ROWS if bench.kind != "cpu" else ROWS // 64
    lines: list[list[object]] = []
    for likelihood, data in LIKELIHOODS.items():
        x = _rows(data, rows)
        recipe = ModelRecipe(architecture="plain_mlp", widths=(512, 512), latent_size=LATENTS, likelihood=likelihood)
        module = graph_modules(build(recipe, data, x, 0), data, x[:256])["elbo"]
        ways: dict[str, contextlib.AbstractContextManager[object]] = {
            "as it is": contextlib.nullcontext(),
            "without batch invariance": mock.patch("training.export.onnx.make_position_invariant"),
        }
        if likelihood == "gaussian_shared":
            ways["squares in float32"] = mock.patch.object(GaussianShared, "log_likelihood", _partly_in_float32)
        inputs = {"x": x, "noise": noise.base_samples(0, DRAWS, LATENTS)}
        expected: Array | None = None
        for way, changed in ways.items():
            with changed:
                graph, files, nodes = _exported(module, data)
            engine = OnnxEngine({"elbo": graph}, files, bench.kind)
            elbo = engine.run("elbo", inputs)["elbo"]
            expected = elbo if expected is None else expected
            reached = rows * measured_rate(functools.partial(engine.run, "elbo", inputs), bench.seconds)
            lines.append([likelihood, way, nodes, f"{reached:,.0f}", f"{np.abs(elbo - expected).max():.1e}"])
    head = ["likelihood", f"{rows:,} rows × {DRAWS}", "nodes", "rows a second", "off by at most, nats"]
    yield from table(head, lines)


def _exported(module: nn.Module, data: ImageInput | TabularInput) -> tuple[Graph, dict[str, bytes], int]:
    graph = graph_contract("elbo", data, LATENTS)
    model = to_onnx(trace(module, graph), module, graph)
    return graph, share_weights({"elbo": model}), len(model.graph.node)


def _partly_in_float32(self: GaussianShared, params: Tensor, x: Tensor) -> Tensor:
    mean, log_sigma = self.normal(params)
    residual, _ = self.residual(mean, x)
    squares = (residual**2).unflatten(-1, (-1, PARTS)).sum(-1).double().sum(-1)
    constant = (log_sigma.double() + (0.5 * LOG_2PI + self.scale.log())).sum(-1)
    return -0.5 * torch.exp(-2 * log_sigma.double()) * squares - constant


def _rows(data: ImageInput | TabularInput, number: int) -> Array:
    generator = np.random.default_rng(0)
    if isinstance(data, TabularInput):
        cells = generator.standard_normal((number, len(data.columns)))
        return np.where(generator.random(cells.shape) < 0.1, np.nan, cells)
    return generator.integers(0, int(data.high) + 1, (number, *data.shape), np.uint8)
