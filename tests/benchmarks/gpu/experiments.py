"""Experiments that decide how the engine for accelerators works; each gives its table as lines of Markdown."""

import contextlib
import functools
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from unittest import mock

import numpy as np
import torch

from service.bundle import Array, Bundle, read_bundle
from service.engine import OnnxEngine, accelerated
from service.engine.accelerated import REPLAYED, AcceleratedEngine
from service.engine.devices import PROVIDERS, Kind, Target
from service.engine.engine import open_session
from service.engine.pinned import PinnedMemory
from service.engine.replay import Replay
from service.storage import DEFAULT_REPOSITORY
from tests.benchmarks import swap
from tests.benchmarks.gpu.limits import BYTES, rate
from tests.benchmarks.gpu.tables import Bench, measured_rate, table

REPLAYS = 100
LARGE = (("encoder", 4096, 1), ("decoder", 4096, 1), ("elbo", 256, 16), ("elbo", 4096, 16), ("explain", 4096, 16))
"""Graphs, rows and draws of the calls that are compared."""

THREADS = (1, 2, 4, 8)
LIMITS = (2**26, 2**28, 2**30)
"""Bytes of a graph's intermediate results; 4,096 rows at 16 draws take more than the last."""

SWAPS, CLIENTS = 15, 8
"""Versions, one a second, and clients."""

NATS = 1e-3
"""By which a device's bounds may differ from the CPU's."""

PATIENCE = 60.0
"""Seconds for a process in which a capture may break what serves."""


def captures(bench: Bench) -> Iterator[str]:
    """Which graphs capture, of the embedded digits too, and whether replays have the bits of ONNX Runtime."""
    lines: list[list[object]] = []
    for bundle in (bench.bundle, read_bundle(DEFAULT_REPOSITORY / "digits" / "1")):
        plain = OnnxEngine(bundle.manifest.graphs, bundle.files, bench.kind)
        graphs = bundle.manifest.graphs
        lines += [[bundle.manifest.name, name, *_replayed(bundle, name, plain, bench.kind)] for name in graphs]
    yield from table(
        ["model", "graph", "captured", f"of {REPLAYS} replays with the same bits", "largest difference"], lines
    )


def _replayed(bundle: Bundle, name: str, plain: OnnxEngine, kind: Kind) -> list[object]:
    try:
        replay = new_replay(bundle, name, kind, bundle.manifest.num_draws, REPLAYED)
    except Exception as error:  # ONNX Runtime's own kinds share no public base, and a capture fails in its own way.
        return [str(error).splitlines()[0][:100], "", ""]
    same, largest = 0, 0.0
    graph = bundle.manifest.graphs[name]
    golden = {tensor.name: bundle.golden[name][tensor.name] for tensor in graph.inputs}
    for i in range(REPLAYS):
        rows = 1 + i % len(next(golden[tensor.name] for tensor in graph.inputs if tensor.is_by_row))
        inputs = {t.name: np.roll(golden[t.name], i, 0)[:rows] if t.is_by_row else golden[t.name] for t in graph.inputs}
        if not replay.takes(inputs):
            return ["yes", "golden rows have other draws", ""]
        answer, expected = replay.run(inputs), plain.run(name, inputs)
        same += all(answer[output].tobytes() == expected[output].tobytes() for output in expected)
        largest = max(largest, *(float(np.nanmax(np.abs(answer[o] - expected[o]), initial=0.0)) for o in expected))
    return ["yes", same, f"{largest:.1e}"]


def new_replay(bundle: Bundle, name: str, kind: Kind, draws: int, most: int) -> Replay:
    """The captured batches of a graph; on the CPU the same without a capture."""
    target, graph = Target(kind), bundle.manifest.graphs[name]
    session = open_session(bundle.files, name, graph, target, capture=target.provider.captures)
    return Replay(session, graph, target, draws, most)


def replays(bench: Bench) -> Iterator[str]:
    """Rows a second, replayed and not, by row-draws: where replay stops to pay."""
    engine = _engine(bench, replayed=0)
    lines: list[list[object]] = []
    for name, draws in (("encoder", 1), ("decoder", 1), ("elbo", 1), ("elbo", 16), ("explain", 16)):
        try:
            replay = new_replay(bench.bundle, name, bench.kind, draws, bench.max_batch)
        except Exception as error:
            yield f"{name}: {str(error).splitlines()[0][:100]}\n"
            continue
        for rows in (4**i for i in range(8) if 4**i * draws <= bench.max_batch):
            inputs = bench.inputs(name, rows, draws)
            replayed, plain = (
                rows * measured_rate(functools.partial(run, inputs), bench.seconds)
                for run in (replay.run, functools.partial(engine.run, name))
            )
            lines.append([name, rows, draws, f"{plain:,.0f}", f"{replayed:,.0f}", f"{replayed / plain:.2f}"])
    yield from table(["graph", "rows", "draws", "not replayed", "replayed", "×"], lines)


def threads(bench: Bench) -> Iterator[str]:
    """Rows a second of ONNX Runtime from arrays to arrays, and of the engine, of calls side by side."""
    plain, engine = OnnxEngine(bench.bundle.manifest.graphs, bench.bundle.files, bench.kind), _engine(bench, replayed=0)
    lines: list[list[object]] = []
    for name, rows, draws in _fitting(bench):
        inputs = bench.inputs(name, rows, draws)
        for contender, run in (("ONNX Runtime", plain.run), ("the engine", engine.run)):
            rates = [rows * _side_by_side(functools.partial(run, name, inputs), n, bench.seconds) for n in THREADS]
            lines.append([name, f"{rows:,} × {draws}", contender, *(f"{rate:,.0f}" for rate in rates)])
    yield from table(["graph", "rows × draws", "", *(f"{n} threads" for n in THREADS)], lines)


def pinned(bench: Bench) -> Iterator[str]:
    """Rows a second with rows and answers in pageable and in pinned memory."""
    provider = PROVIDERS[bench.kind]
    engine, lines = _engine(bench, replayed=0), []
    for name, rows, draws in _fitting(bench):
        inputs = bench.inputs(name, rows, draws)
        staged = {key: provider.staging(array.shape, array.dtype) for key, array in inputs.items()}
        for key, array in inputs.items():
            staged[key][...] = array
        rates = []
        for given, most in ((inputs, 0), (inputs, 2**30), (staged, 0), (staged, 2**30)):
            engine._graphs[name]._memory = PinnedMemory(provider, most)
            rates.append(rows * measured_rate(functools.partial(engine.run, name, given), bench.seconds))
        lines.append([name, f"{rows:,} × {draws}", *(f"{rate:,.0f}" for rate in rates)])
    head = ["graph", "rows × draws", "neither", "answers pinned", "rows pinned", "both pinned"]
    yield from table(head, lines)


def beside(bench: Bench) -> Iterator[str]:
    """What a capture does to calls of another model in the same process, held back or not."""
    context = multiprocessing.get_context("spawn")
    lines: list[list[object]] = []
    for held_back in (True, False):
        results = context.SimpleQueue()
        process = context.Process(target=_capture_beside, args=(bench.kind, held_back, results))
        process.start()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            lines.append(["yes" if held_back else "no", "hung", "", ""])
        elif process.exitcode:
            lines.append(["yes" if held_back else "no", f"ended with status {process.exitcode}", "", ""])
        else:
            lines.append(["yes" if held_back else "no", *results.get()])
    yield from table(["calls held back", "calls", "failed", "longest, ms"], lines)


def _capture_beside(kind: Kind, held_back: bool, results: "multiprocessing.SimpleQueue[list[str]]") -> None:
    """One model serves while another is captured ten times."""
    bundle = read_bundle(DEFAULT_REPOSITORY / "digits" / "1")
    manifest, target, end = bundle.manifest, Target(kind), Event()
    if not held_back:
        accelerated._runs.alone = contextlib.nullcontext  # type: ignore[method-assign]

    def make() -> AcceleratedEngine:
        return AcceleratedEngine(manifest.graphs, bundle.files, target, max_batch=512, draws=manifest.num_draws)

    engine = make()
    inputs = {tensor.name: bundle.golden["elbo"][tensor.name] for tensor in manifest.graphs["elbo"].inputs}
    seconds: list[float] = []
    failures: list[str] = []

    def serve() -> None:
        while not end.is_set():
            began = time.perf_counter()
            try:
                engine.run("elbo", inputs)
            except Exception as error:
                failures.append(str(error))
            seconds.append(time.perf_counter() - began)

    thread = Thread(target=serve)
    thread.start()
    for _ in range(10):
        make()
    end.set()
    thread.join()
    said = f"{len(failures)}: {failures[0].splitlines()[0][:80]}" if failures else "0"
    results.put([f"{len(seconds):,}", said, f"{1000 * max(seconds):.0f}"])


def precisions(bench: Bench) -> Iterator[str]:
    """Rows a second of each precision that the device has, and how far its answers lie from those of the first."""
    lines: list[list[object]] = []
    reference: dict[str, Mapping[str, Array]] = {}
    for precision in PROVIDERS[bench.kind].precisions:
        engine = AcceleratedEngine(
            bench.bundle.manifest.graphs,
            bench.bundle.files,
            Target(bench.kind, precision=precision),
            max_batch=bench.max_batch,
            draws=16,
            replayed=0,
        )
        for name, rows, draws in _fitting(bench):
            inputs = bench.inputs(name, rows, draws)
            answer = engine.run(name, inputs)
            first = reference.setdefault(f"{name} {rows}", answer)
            off = _off(answer, first)
            reached = rows * measured_rate(functools.partial(engine.run, name, inputs), bench.seconds)
            lines.append([precision, name, f"{rows:,} × {draws}", f"{reached:,.0f}", f"{off:.1e}"])
    yield from table(["precision", "graph", "rows × draws", "rows a second", "off by at most"], lines)


def copies(bench: Bench) -> Iterator[str]:
    """GB/s between the host and the device, from pageable and from pinned memory."""
    device = torch.device("cpu" if bench.kind == "cpu" else "cuda")
    there, lines = torch.empty(BYTES, dtype=torch.uint8, device=device), []
    for is_pinned in (False, True):
        here = torch.empty(BYTES, dtype=torch.uint8, pin_memory=is_pinned and bench.kind != "cpu")
        sent = rate(functools.partial(there.copy_, here, non_blocking=True), device, bench.seconds)
        back = rate(functools.partial(here.copy_, there, non_blocking=True), device, bench.seconds)
        name = "pinned" if is_pinned else "pageable"
        lines.append([name, f"{BYTES * sent / 1e9:.1f}", f"{BYTES * back / 1e9:.1f}"])
    yield from table(["memory", "to the device, GB/s", "back, GB/s"], lines)


def memory(bench: Bench) -> Iterator[str]:
    """Whether a batch that the device has not the memory for is computed in parts, and the next one as usual."""
    graphs, files = bench.bundle.manifest.graphs, bench.bundle.files
    ((name, rows, draws),) = (call for call in _fitting(bench) if call[0] == "elbo" and call[2] == 16 and call[1] > 256)
    inputs, few = bench.inputs(name, rows, draws), bench.inputs(name, 1, draws)
    plain = OnnxEngine(graphs, files, bench.kind)
    expected, alone = plain.run(name, inputs), plain.run(name, few)
    lines: list[list[object]] = []
    for limit in LIMITS:
        target = Target(bench.kind, memory=limit)
        engine = AcceleratedEngine(
            {name: graphs[name]}, files, target, max_batch=bench.max_batch, draws=draws, replayed=0
        )
        with mock.patch.object(engine._graphs[name], "_compute", wraps=engine._graphs[name]._compute) as computed:
            answer = engine.run(name, inputs)
            calls = computed.call_count
        off = [_off(answer, expected), _off(engine.run(name, few), alone)]
        lines.append([f"{limit / 2**20:,.0f}", f"{rows:,} × {draws}", calls, *(f"{largest:.1e}" for largest in off)])
    yield from table(
        ["limit, MiB", "rows × draws", "calls, whole or in parts", "off by at most", "the next row"], lines
    )


def swaps(bench: Bench) -> Iterator[str]:
    """Versions of a model that come and go under load, one in five of them bad; answers are held to the CPU's."""
    program = ("tests.service.accelerated_server",) if bench.kind == "cpu" else ("service", "--device", bench.kind)
    with tempfile.TemporaryDirectory() as folder:
        counts = swap.run(Path(folder), SWAPS, SWAPS, CLIENTS, program=program, tolerance=NATS)
    yield from table(
        ["swapped in", "refused", "versions that answered", "right answers", "wrong or failed", "first of them"],
        [
            [
                counts.swaps,
                counts.refused,
                len(counts.answered),
                f"{sum(counts.answered.values()):,}",
                len(counts.failed),
                *(counts.failed[:1] or [""]),
            ]
        ],
    )


def _off(answer: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    return max(float(np.nanmax(np.abs(answer[name] - expected[name]))) for name in expected)


def _engine(bench: Bench, replayed: int) -> AcceleratedEngine:
    manifest = bench.bundle.manifest
    return AcceleratedEngine(
        manifest.graphs, bench.bundle.files, Target(bench.kind), max_batch=bench.max_batch, draws=16, replayed=replayed
    )


def _fitting(bench: Bench) -> Iterator[tuple[str, int, int]]:
    """The large calls; on the CPU with an eighth of the rows, for a rehearsal."""
    for name, rows, draws in LARGE:
        yield name, rows if bench.kind != "cpu" else rows // 8, draws


def _side_by_side(call: Callable[[], object], number: int, seconds: float) -> float:
    """Calls a second, of so many threads together."""
    with ThreadPoolExecutor(number) as pool:
        return sum(pool.map(lambda _: measured_rate(call, seconds), range(number)))
