"""The GPU benchmark: one command for every experiment, the most important first.

    python -m tests.benchmarks.gpu --minutes 12 --out gpu.json     # on a GPU, with PyTorch and ONNX Runtime for CUDA
    python -m tests.benchmarks.gpu --device cpu --seconds 0.1      # the same on the CPU: a rehearsal
    python -m tests.benchmarks.gpu captures replays                # some of them

captures      which graphs capture, and whether replays have the bits of ONNX Runtime's own runs
replays       rows a second, replayed and not, by row-draws
threads       ONNX Runtime and the engine, calls side by side
pinned        rows and answers in pageable and in pinned memory
beside        what a capture does to another model's calls
precisions    rows a second and differences of each precision
variants      rows a second of other ways to export the graph of the bounds
copies        GB/s between the host and the device
http          rows a second of a server, by workers and engine threads
training      steps a second of the recipes, captured and not
unrolled      the same of several steps in one graph, of compiled ones, and of evaluations
memory        batches that the device has not the memory for
swaps         versions of a model that come and go under load
differences   how far capturing moves the weights of every likelihood
throughput    rows a second of each graph by batch and draws, of PyTorch too, and how near the best comes to the limits
refinement    the cost of a step
agreement     how far the answers lie from the CPU's
invariance    how far a row's answer in a batch lies from the row's alone

The model is that of the serving benchmark. No experiment begins that may not end within the minutes given; the file has
the tables of those that ended.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import onnxruntime as ort
import torch

from service.bundle import Bundle, read_bundle
from service.engine import Engine, EngineFactory
from service.engine.accelerated import AcceleratedEngine
from service.engine.devices import Kind, Target
from tests.benchmarks.gpu import experiments, tables
from tests.benchmarks.gpu.limits import measure
from tests.benchmarks.gpu.training import differences, speeds, unrolled
from tests.benchmarks.gpu.variants import variants
from tests.benchmarks.serving.reference import write_reference


class Experiment(NamedTuple):
    """What is measured, its title, and seconds that it took, or may take, at 0.3 seconds for each figure."""

    run: Callable[[tables.Bench], Iterator[str]]
    title: str
    seconds: float


EXPERIMENTS: dict[str, Experiment] = {
    "captures": Experiment(experiments.captures, "Captured graphs.", 30),
    "replays": Experiment(experiments.replays, "Rows a second, replayed and not.", 90),
    "threads": Experiment(experiments.threads, "Rows a second of calls side by side.", 60),
    "pinned": Experiment(experiments.pinned, "Rows a second by kind of memory.", 60),
    "beside": Experiment(experiments.beside, "Calls beside a capture.", 45),
    "precisions": Experiment(experiments.precisions, "Rows a second by precision.", 45),
    "variants": Experiment(variants, "Rows a second of variants of the graph of the bounds.", 60),
    "copies": Experiment(experiments.copies, "Copies.", 15),
    "http": Experiment(tables.http, "Rows a second over HTTP.", 120),
    "training": Experiment(lambda bench: speeds(bench.seconds), "Steps of training a second.", 60),
    "unrolled": Experiment(lambda bench: unrolled(bench.seconds), "Several steps of training in one graph.", 90),
    "memory": Experiment(experiments.memory, "Out of memory.", 15),
    "swaps": Experiment(experiments.swaps, "Models swapped under load.", 45),
    "differences": Experiment(lambda _: differences(), "What capturing changes.", 60),
    "throughput": Experiment(
        lambda bench: tables.throughput(bench, measure(_device(bench.kind), bench.seconds)),
        "Rows a second, from arrays to arrays, one call after another.",
        120,
    ),
    "refinement": Experiment(lambda bench: tables.refinement(bench, _engine(bench)), "Refinement.", 15),
    "agreement": Experiment(lambda bench: tables.agreement(bench, _engine(bench)), "Agreement with the CPU.", 30),
    "invariance": Experiment(lambda bench: tables.invariance(bench, _engine(bench)), "Rows alone.", 15),
}


def main() -> None:
    """Run what was asked for, as far as the minutes reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="all if none is given")
    parser.add_argument("--device", choices=["cuda", "tensorrt", "cpu"], default="cuda")
    parser.add_argument("--max-batch", type=int, help="row-draws in one call; else 32768, on the CPU 512")
    parser.add_argument("--batches", type=int, nargs="*", help="rows in one call; else 1, 16, 256 and, on a GPU, 4096")
    parser.add_argument("--rows", type=int, default=10_000, help="compared with the CPU's")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="for all of it")
    parser.add_argument("--out", type=Path, help="JSON file for the tables")
    given = parser.parse_args()
    parts = given.parts or list(EXPERIMENTS)
    if unknown := set(parts) - EXPERIMENTS.keys():
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(EXPERIMENTS)}")
    end = time.monotonic() + 60 * given.minutes
    device = _device(given.device)
    max_batch = given.max_batch or (512 if given.device == "cpu" else 2**15)
    # Larger ones at 16 draws take more than 24 GiB of a processor's memory.
    batches = given.batches or ([1, 16, 256] if given.device == "cpu" else [1, 16, 256, 4096])
    name = platform.machine() if given.device == "cpu" else torch.cuda.get_device_name(device)
    machine = f"{name}; ONNX Runtime {ort.__version__}, PyTorch {torch.__version__}; at most {max_batch:,} row-draws"
    print(f"{machine}\n", flush=True)
    results: dict[str, object] = {"machine": machine}
    with tempfile.TemporaryDirectory() as folder:
        reference = write_reference(Path(folder))
        bundle = read_bundle(reference.models / "reference" / "1")
        bench = tables.Bench(reference, bundle, given.device, max_batch, tuple(batches), given.rows, given.seconds)
        for part in parts:
            results[part] = _run(EXPERIMENTS[part], bench, end)
            if given.out:
                given.out.write_text(json.dumps(results, indent=1))


def _run(experiment: Experiment, bench: tables.Bench, end: float) -> dict[str, object]:
    print(f"{experiment.title}\n", flush=True)
    began, lines = time.monotonic(), []
    if began + experiment.seconds > end:
        print("Not run: no time is left.\n", flush=True)
        return {"not run": "no time is left"}
    try:
        for line in experiment.run(bench):
            print(line, flush=True)
            lines.append(line)
    except Exception as error:  # The others are worth their time.
        print(f"\nFailed: {error!r}", flush=True)
        return {"failed": repr(error), "lines": lines}
    taken = time.monotonic() - began
    print(f"\n{taken:.0f} s.\n", flush=True)
    return {"title": experiment.title, "lines": lines, "seconds": round(taken, 1)}


def _device(kind: Kind) -> torch.device:
    return torch.device("cpu" if kind == "cpu" else "cuda")


def _engine(bench: tables.Bench) -> Engine:
    """What the service would compute with on a GPU; the rehearsal has the same on the CPU, which serves otherwise."""
    bundle: Bundle = bench.bundle
    if bench.kind == "cpu":
        graphs, draws = bundle.manifest.graphs, bundle.manifest.num_draws
        return AcceleratedEngine(graphs, bundle.files, Target("cpu"), max_batch=bench.max_batch, draws=draws)
    precision = "tf32" if bench.kind == "tensorrt" else "float32"
    return EngineFactory(bench.kind, precision, bench.max_batch).engine(bundle)


if __name__ == "__main__":
    main()
