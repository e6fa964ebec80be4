"""Ten million rows scored by `lowerbound score`: the rate beside ONNX Runtime alone, the memory, and two kills.

    .venv/test/bin/python -m tests.benchmarks.bulk

The embedded digits model. The same rows are scored twice: straight, while the memory is watched, and by a run that is
killed twice and goes on; then the two are compared row by row. ONNX Runtime alone has the same graph, threads and batch
size, and its rows at hand, and is timed before and after.
"""

import argparse
import itertools
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet  # type: ignore[import-untyped]

from service.bulk.writer import PART_ROWS
from service.bundle import read_bundle
from service.engine import OnnxEngine
from service.scoring import noise
from service.storage import DEFAULT_REPOSITORY
from tests.benchmarks.serving.memory import resident, slope

MODEL = DEFAULT_REPOSITORY / "digits" / "1"
MAX_BATCH = 512
"""Row-draws in one engine call, by default."""

LOOK = 1.0
"""Seconds between looks at the memory."""


def write_rows(path: Path, rows: int) -> None:
    """Pictures of random levels, without all of them in memory."""
    x = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(rows, 8, 8))
    generator = np.random.default_rng(0)
    for start in range(0, rows, 10**6):
        x[start : start + 10**6] = generator.integers(0, 17, (min(10**6, rows - start), 8, 8), np.uint8)
    x.flush()


def ceiling(engine_threads: int, num_draws: int, seconds: float) -> float:
    """Rows a second of ONNX Runtime alone, one thread for each engine call."""
    bundle = read_bundle(MODEL)
    engine = OnnxEngine(bundle.manifest.graphs, bundle.files, "cpu")
    base_samples = noise.base_samples(bundle.manifest.seed, num_draws, bundle.manifest.latent_size)
    x = np.random.default_rng(0).integers(0, 17, (MAX_BATCH // num_draws, 8, 8), np.uint8)
    deadline = time.perf_counter() + seconds

    def engine_thread(_: int) -> int:
        calls = 0
        while time.perf_counter() < deadline:
            engine.run("elbo", {"x": x, "noise": base_samples})
            calls += 1
        return calls

    with ThreadPoolExecutor(engine_threads) as pool:
        return len(x) * sum(pool.map(engine_thread, range(engine_threads))) / seconds


def start(path: Path, out: Path, engine_threads: int, num_draws: int) -> subprocess.Popen[bytes]:
    """A run."""
    command = [sys.executable, "-m", "service.cli", "score", str(MODEL), str(path), str(out)]
    return subprocess.Popen(
        [*command, "--num-draws", str(num_draws), "--engine-threads", str(engine_threads)], stderr=subprocess.DEVNULL
    )


def straight(path: Path, out: Path, engine_threads: int, num_draws: int) -> tuple[float, npt.NDArray[np.float64]]:
    """Seconds of a whole run, and (seconds, MiB) at each look at its memory."""
    begin = time.monotonic()
    looks = []
    with start(path, out, engine_threads, num_draws) as process:
        while process.poll() is None:
            looks.append((time.monotonic() - begin, resident(process.pid)))
            time.sleep(LOOK)
    if process.returncode:
        raise RuntimeError(f"the run ended with status {process.returncode}")
    return time.monotonic() - begin, np.array(looks[:-1])


def killed(path: Path, out: Path, engine_threads: int, num_draws: int, rows: int) -> list[int]:
    """Kill a run after a third and after two thirds of its parts, let it finish; the rows kept at each kill."""
    kept = []
    for share in (1 / 3, 2 / 3):
        with start(path, out, engine_threads, num_draws) as process:
            while (parts := len(list(out.glob("part-*")))) < share * rows / PART_ROWS:
                time.sleep(0.05)
            process.kill()
        kept.append(parts * PART_ROWS)
    with start(path, out, engine_threads, num_draws) as process:
        process.wait()
    return kept


def differences(one: Path, other: Path, rows: int) -> int:
    """Rows that are not the same bits in both, or that one does not have."""
    different = seen = 0
    for ours, theirs in itertools.zip_longest(_parts(one), _parts(other)):
        if ours is None or theirs is None or ours.shape != theirs.shape:
            return rows
        seen += len(ours)
        different += int((ours.view(np.int64) != theirs.view(np.int64)).any(axis=1).sum())
    return different + abs(rows - seen)


def _parts(folder: Path) -> Iterator[npt.NDArray[np.float64]]:
    for file in sorted(folder.glob("part-*")):
        part = pyarrow.parquet.read_table(file)
        yield np.column_stack([part[field.name] for field in part.schema if pa.types.is_floating(field.type)])


def main() -> None:
    """Print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10**7)
    parser.add_argument("--num-draws", type=int, default=4)
    parser.add_argument("--engine-threads", type=int, default=2)
    options = parser.parse_args()
    engine_threads, draws = options.engine_threads, options.num_draws
    with tempfile.TemporaryDirectory() as folder:
        path, one, other = (Path(folder) / name for name in ("x.npy", "straight", "killed"))
        write_rows(path, options.rows)
        before = ceiling(engine_threads, draws, 10)
        seconds, looks = straight(path, one, engine_threads, draws)
        after = ceiling(engine_threads, draws, 10)
        kept = killed(path, other, engine_threads, draws, options.rows)
        different = differences(one, other, options.rows)
    alone, rate = (before + after) / 2, options.rows / seconds
    rise, error = slope(looks[:, 0] / 60, looks[:, 1])
    print(f"{options.rows:,} rows, {draws} draws, {engine_threads} engine threads, {platform.machine()}")
    print(f"straight: {seconds:.0f} s, {rate:,.0f} rows a second, start included")
    print(f"ONNX Runtime alone: {before:,.0f} before, {after:,.0f} after: {rate / alone:.1%} of it")
    print(f"resident memory: {looks[:, 1].max():.0f} MiB at most, slope {rise:+.2f} ± {error:.2f} MiB a minute")
    print(f"killed with {kept[0]:,} and {kept[1]:,} rows kept, and gone on: {different} rows differ")


if __name__ == "__main__":
    main()
