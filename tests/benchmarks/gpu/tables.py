"""The tables: each part of the benchmark measures, and gives its table as lines of Markdown."""

import functools
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from service.bundle import Array, Bundle
from service.engine import RELATIVE_TOLERANCE, Engine, OnnxEngine
from service.engine.devices import Kind
from service.scoring import noise
from tests.benchmarks.gpu.contenders import Torch, contenders
from tests.benchmarks.gpu.limits import Limits, operations
from tests.benchmarks.serving.load import Exchange, Load, LoadError, run
from tests.benchmarks.serving.reference import Reference
from tests.benchmarks.serving.servers import OURS
from tests.conftest import run_server
from training.evaluation.bounds import bounds, refined
from training.export.onnx import graph_inputs

GRAPHS = ("encoder", "decoder", "elbo", "explain", "refine")
WITHOUT = ("encoder", "decoder")
"""The ones without draws among these."""

DRAWS = (1, 16, 64)
STEPS = (0, 1, 10, 50)
CONNECTIONS = (1, 8, 32)
SETTINGS = ((1, 4), (2, 4), (4, 2), (8, 1), (8, 2))
"""Workers and engine threads of each."""

GENERATORS = 4
"""Processes that send requests, so that one does not limit the server."""


@dataclass(frozen=True)
class Bench:
    """The measurements.

    Attributes:
        reference: The model.
        bundle: The same, as it is served.
        kind: Of device.
        max_batch: Most row-draws in one call.
        batches: Rows in one call.
        rows: Compared between devices.
        seconds: Of each measurement.
    """

    reference: Reference
    bundle: Bundle
    kind: Kind
    max_batch: int
    batches: tuple[int, ...]
    rows: int
    seconds: float

    def images(self, rows: int) -> Array:
        """So many of the model's images, over and over, each with other noise in its lowest bits."""
        generator = np.random.default_rng(0)
        images = self.reference.rows[np.arange(rows) % len(self.reference.rows)]
        return images ^ generator.integers(0, 8, images.shape, np.uint8)

    def base_samples(self, draws: int) -> Array:
        """Noise, (draws, L)."""
        return noise.base_samples(0, draws, self.bundle.manifest.latent_size)

    def inputs(self, graph: str, rows: int, draws: int) -> dict[str, Array]:
        """The inputs of a graph."""
        latents = np.zeros((rows, self.bundle.manifest.latent_size), np.float32)
        by_row, shared = graph_inputs(graph, self.images(rows), self.base_samples(draws), latents)
        return by_row | shared


def throughput(bench: Bench, limits: Limits) -> Iterator[str]:
    """Rows a second; how many times PyTorch's, compiled, the best of the others has, and what share of the limits.

    What copying and float32 products alone would allow is counted; TF32 and float16 may pass it.
    """
    rates: dict[_Case, dict[str, float]] = {}
    makers = contenders(bench.reference, bench.bundle, bench.kind, bench.max_batch)
    for draws, (name, make) in itertools.product(DRAWS, makers.items()):
        graphs = {graph: bench.bundle.manifest.graphs[graph] for graph in GRAPHS if draws == 1 or graph not in WITHOUT}
        try:
            engine = make(graphs, draws)
        except Exception as error:  # TensorRT's libraries may be missing, and the rest is worth measuring.
            yield f"{name}: {error}\n"
            continue
        for graph, rows in itertools.product(graphs, bench.batches):
            if not (graph == "refine" and isinstance(engine, Torch)):
                call = functools.partial(engine.run, graph, bench.inputs(graph, rows, draws))
                rates.setdefault(_Case(graph, rows, draws), {})[name] = rows * measured_rate(call, bench.seconds)
    yield from table(
        ["graph", "rows", "draws", *makers, "best / torch.compile", "of the copies", "of the products"],
        [
            [*case, *(_number(own.get(name)) for name in makers), *_shares(bench, limits, case, own)]
            for case, own in sorted(rates.items())
        ],
    )


def _shares(bench: Bench, limits: Limits, case: "_Case", rates: Mapping[str, float]) -> list[str]:
    best = max(rate for name, rate in rates.items() if not name.startswith("torch"))
    copied = sum(array.nbytes for name, array in bench.inputs(case.graph, 1, 1).items() if name != "noise")
    products = operations(bench.reference.vae, case.graph, case.draws)
    compiled = rates.get("torch.compile")
    return [
        f"{best / compiled:.2f}" if compiled else "",
        f"{best * copied / limits.copied:.1%}",
        f"{best * products / limits.products:.1%}",
    ]


class _Case(NamedTuple):
    graph: str
    rows: int
    draws: int


def _number(rate: float | None) -> str:
    return "" if rate is None else f"{rate:,.0f}"


def refinement(bench: Bench, engine: Engine) -> Iterator[str]:
    """The cost of a step of refinement, of as many rows as a call takes."""
    draws = bench.bundle.manifest.num_draws
    rows = max(1, bench.max_batch // draws)
    x, base_samples = bench.images(rows), bench.base_samples(draws)
    amortised = bounds(engine, x, base_samples)
    calls = {steps: functools.partial(refined, engine, x, base_samples, steps, amortised) for steps in STEPS}
    seconds = {steps: 1 / measured_rate(call, bench.seconds) for steps, call in calls.items()}
    yield from table(
        ["steps", f"{rows:,} rows, ms", "a step, ms", "µs for each row"],
        (
            [
                steps,
                f"{1e3 * taken:.2f}",
                f"{1e3 * (taken - seconds[0]) / steps:.2f}" if steps else "",
                f"{1e6 * (taken - seconds[0]) / steps / rows:.2f}" if steps else "",
            ]
            for steps, taken in seconds.items()
        ),
    )


def agreement(bench: Bench, engine: Engine) -> Iterator[str]:
    """How far the bounds of many rows lie from the CPU's, in nats and as a share of what golden rows are allowed."""
    manifest = bench.bundle.manifest
    x, base_samples = bench.images(bench.rows), bench.base_samples(16)
    begin = time.perf_counter()
    there = bounds(engine, x, base_samples)
    taken = time.perf_counter() - begin
    here = bounds(OnnxEngine(manifest.graphs, bench.bundle.files, "cpu"), x, base_samples)
    yield f"{bench.rows:,} rows, 16 draws, from memory: {bench.rows / taken:,.0f} rows a second.\n"
    yield from table(
        ["", "median", "99th percentile", "largest", "largest / allowed"], _differences(bench, there, here)
    )


def invariance(bench: Bench, engine: Engine) -> Iterator[str]:
    """How far a row's bounds in a batch lie from those of the row alone."""
    base_samples = bench.base_samples(16)
    rows = max(bench.batches)
    x = bench.images(rows)
    whole = engine.run("elbo", {"x": x, "noise": base_samples})
    some = np.unique(np.linspace(0, rows - 1, 64).astype(int))
    alone = [engine.run("elbo", {"x": x[row : row + 1], "noise": base_samples}) for row in some]
    yield f"{len(some)} rows of a batch of {rows:,}, and alone.\n"
    yield from table(
        ["", "median", "99th percentile", "largest", "largest / allowed"],
        _differences(
            bench,
            {name: values[some] for name, values in whole.items()},
            {name: np.concatenate([answer[name] for answer in alone]) for name in whole},
        ),
    )


def http(bench: Bench) -> Iterator[str]:
    """Rows a second over HTTP in binary, by workers and their engine threads."""
    named = [f"{number} connections" for number in CONNECTIONS]
    yield from table(
        ["workers", "threads", "rows each", *named, "median of 1, ms", "busiest generator"], _served(bench)
    )


def _served(bench: Bench) -> Iterator[list[object]]:
    given = ["--models", str(bench.reference.models), "--device", bench.kind, "--max-queue", str(2**22)]
    images = bench.images(4096)
    with ProcessPoolExecutor(GENERATORS, get_context("spawn")) as pool:
        for workers, threads in SETTINGS if bench.kind != "cpu" else SETTINGS[:2]:
            options = [*given, "--timeout", "300", "--workers", str(workers), "--engine-threads", str(threads)]
            with tempfile.TemporaryDirectory() as folder, run_server(*options, log=Path(folder) / "log") as client:
                assert client.base_url.port
                for rows in (1, 64, 1024):
                    exchanges = OURS.exchanges(images, rows, "binary")
                    send = functools.partial(_loads, pool, client.base_url.port, exchanges, max(0.5, bench.seconds))
                    try:
                        loads = [send(number) for number in CONNECTIONS]
                    except LoadError as error:  # Other settings are worth their time.
                        yield [workers, threads, rows, error]
                        continue
                    reached = [f"{sum(load.rows_per_second for load in some):,.0f}" for some in loads]
                    (alone,), busiest = loads[0], max(load.busy for some in loads for load in some)
                    yield [workers, threads, rows, *reached, f"{1000 * alone.quantile(0.5):.2f}", f"{busiest:.0%}"]


def _loads(
    pool: ProcessPoolExecutor, port: int, exchanges: Sequence[Exchange], seconds: float, connections: int
) -> list[Load]:
    """What each generator measured at the same time; one connection has one."""
    generators = min(connections, GENERATORS)
    sent = [
        pool.submit(run, port, exchanges, connections // generators, seconds, seconds / 2) for _ in range(generators)
    ]
    return [future.result() for future in sent]


def _differences(bench: Bench, first: Mapping[str, Array], second: Mapping[str, Array]) -> Iterator[list[str]]:
    for name in ("elbo", "log_evidence", "kl"):
        off = np.abs(first[name] - second[name])
        allowed = bench.bundle.manifest.tolerance + RELATIVE_TOLERANCE * np.abs(second[name])
        figures = [f"{value:.1e}" for value in (*np.quantile(off, (0.5, 0.99)), off.max())]
        yield [name, *figures, f"{np.max(off / allowed):.2g}"]


def measured_rate(call: Callable[[], object], seconds: float) -> float:
    """Calls a second, one after another; the first two do not count."""
    for _ in range(2):
        call()
    calls, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        call()
        calls += 1
    return calls / (time.perf_counter() - begin)


def table(head: list[str], rows: Iterator[list[object]] | list[list[object]]) -> Iterator[str]:
    for cells in itertools.chain((head, ["---:"] * len(head)), rows):
        yield "| " + " | ".join(map(str, cells)) + " |"
