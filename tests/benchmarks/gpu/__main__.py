"""The GPU benchmark: one command, every table.

    python -m tests.benchmarks.gpu                          # on a GPU: with PyTorch and ONNX Runtime for CUDA
    python -m tests.benchmarks.gpu --device cpu             # the same on the CPU: a rehearsal
    python -m tests.benchmarks.gpu throughput agreement     # parts of it

`limits` is what the device can do by itself; `throughput` rows a second of each graph by batch and draws, of ONNX
Runtime in every way and of PyTorch on the same weights, and how near the best comes to the limits; `refinement` the
cost of a step; `agreement` how far the answers lie from the CPU's; `invariance` how far a row's answer in a batch lies
from the row's alone; `http` rows a second of a server. The model is that of the serving benchmark. `training` is
steps a second of the recipes, captured and not, and how far that moves the weights of every likelihood.
"""

import argparse
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import onnxruntime as ort
import torch

from service.bundle import Bundle, read_bundle
from service.engine import Engine, EngineFactory
from service.engine.accelerated import AcceleratedEngine
from service.engine.devices import Kind, Target
from tests.benchmarks.gpu.limits import measure
from tests.benchmarks.gpu.tables import Bench, agreement, http, invariance, refinement, throughput
from tests.benchmarks.gpu.training import differences, speeds
from tests.benchmarks.serving.reference import write_reference

PARTS = ("limits", "throughput", "refinement", "agreement", "invariance", "http", "training")


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all if none is given")
    parser.add_argument("--device", choices=["cuda", "tensorrt", "cpu"], default="cuda")
    parser.add_argument("--max-batch", type=int, help="row-draws in one call; else 32768, on the CPU 512")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 16, 256, 4096], help="rows in one call")
    parser.add_argument("--rows", type=int, default=10_000, help="compared with the CPU's")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    given = parser.parse_args()
    parts = given.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    on_gpu = given.device != "cpu"
    max_batch = given.max_batch or (2**15 if on_gpu else 512)
    device = torch.device("cuda" if on_gpu else "cpu")
    name = torch.cuda.get_device_name(device) if on_gpu else platform.machine()
    print(f"{name}; ONNX Runtime {ort.__version__}, PyTorch {torch.__version__}; at most {max_batch:,} row-draws\n")

    if serving := [part for part in parts if part != "training"]:
        _serving(given, serving, max_batch, device)
    if "training" in parts:
        _show("Steps of training a second.", speeds(given.seconds))
        _show("What capturing changes.", differences())


def _serving(given: argparse.Namespace, parts: Sequence[str], max_batch: int, device: torch.device) -> None:
    with tempfile.TemporaryDirectory() as folder:
        reference = write_reference(Path(folder))
        bundle = read_bundle(reference.models / "reference" / "1")
        bench = Bench(reference, bundle, given.device, max_batch, tuple(given.batches), given.rows, given.seconds)
        limits = measure(device, given.seconds)
        if "limits" in parts:
            copies = f"{limits.copied / 1e9:.1f} GB/s to the device, {limits.returned / 1e9:.1f} GB/s back"
            print(f"Copies: {copies}. Products: {limits.products / 1e12:.3f} TFLOP/s in float32.\n")
        if "throughput" in parts:
            _show("Rows a second, from arrays to arrays, one call after another.", throughput(bench, limits))
        tables: dict[str, Callable[..., Iterator[str]]] = {
            "refinement": refinement,
            "agreement": agreement,
            "invariance": invariance,
        }
        if chosen := [part for part in parts if part in tables]:
            engine = _engine(bundle, given.device, max_batch)
            for part in chosen:
                _show(f"{part.capitalize()}, on {engine.device} in {engine.precision}.", tables[part](bench, engine))
            del engine  # The server needs its memory.
        if "http" in parts:
            _show("Rows a second over HTTP.", http(bench))


def _engine(bundle: Bundle, kind: Kind, max_batch: int) -> Engine:
    """What the service would compute with on a GPU; the rehearsal has the same on the CPU, which serves otherwise."""
    manifest = bundle.manifest
    if kind == "cpu":
        return AcceleratedEngine(
            manifest.graphs, bundle.files, Target(kind), max_batch=max_batch, draws=manifest.num_draws
        )
    return EngineFactory(kind, "tf32" if kind == "tensorrt" else "float32", max_batch).engine(bundle)


def _show(title: str, lines: Iterator[str]) -> None:
    print(f"{title}\n")
    for line in lines:
        print(line, flush=True)
    print()


if __name__ == "__main__":
    main()
