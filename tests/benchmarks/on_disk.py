"""Training on rows that stay on the disk against rows in memory: the held-out bound, the time, the memory.

    .venv/test/bin/python -m tests.benchmarks.on_disk

The rows are 128 float64 columns in one `.npy` file of `--gib` GiB, of six factors and noise; the recipe is `table`. A
run is ended after its epoch of 3,000 steps. Memory is what its processes have to themselves, all together (`RssAnon` of
Linux, looked at ten times a second): pages of a mapped file are taken back when something else needs the room.
"""

import argparse
import json
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from tests.benchmarks.detection.cells import hardware
from tests.benchmarks.runs import ALONE, epochs_of

COLUMNS, FACTORS, CHUNK = 128, 6, 2**17
HELD_OUT, STEPS = 2500, 3000
IN_MEMORY = """
import sys
from service.cli import main
from training.datasets import source
source.IN_MEMORY = 2**60
main(["train", *sys.argv[1:]])
"""
WAYS = {"in memory": (("-c", IN_MEMORY), 1), "on the disk": (ALONE, 1), "on the disk, two processes": (ALONE, 2)}
"""Arguments of Python, and the number of training processes."""


def write(path: Path, rows: int) -> None:
    """The file, a stretch at a time."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(FACTORS, COLUMNS))
    array = np.lib.format.open_memmap(path, "w+", np.float64, (rows, COLUMNS))
    for start in track(range(0, rows, CHUNK), "Writing rows", console=Console(stderr=True)):
        part = array[start : start + CHUNK]
        part[:] = rng.normal(size=(len(part), FACTORS)) @ loadings + 0.3 * rng.normal(size=part.shape)
    array.flush()


def measure(way: str, data: Path, rows: int, folder: Path) -> str:
    """One row of the table."""
    options = ["--dataset", json.dumps({"kind": "numpy"}), "--data", str(data), "--fit.steps", str(STEPS)]
    options += [x for part in ("validation", "calibration", "test") for x in (f"--split.{part}", str(HELD_OUT / rows))]
    alone, processes = WAYS[way]
    most = 0

    def look(process: int) -> None:
        nonlocal most
        most = max(most, _anonymous(process))

    started = time.perf_counter()
    (epoch,) = epochs_of("table", options, 1, folder, processes=processes, alone=alone, meanwhile=look)
    seconds, took = time.perf_counter() - started, float(epoch["seconds"])
    return f"| {way} | {float(epoch['held_out_elbo']):.4f} | {seconds - took:.0f} | {took:.0f} | {most / 2**20:,.0f} |"


def _anonymous(process: int) -> int:
    """Bytes that a process and its descendants have to themselves."""
    folder = Path("/proc", str(process))
    with suppress(ProcessLookupError, FileNotFoundError):
        lines = (folder / "status").read_text().splitlines()
        own = sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
        children = (folder / "task" / str(process) / "children").read_text().split()
        return own + sum(_anonymous(int(child)) for child in children)
    return 0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=8)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    rows = int(options.gib * 2**30 / (8 * COLUMNS))
    print(f"{hardware()}; {rows:,} rows of {COLUMNS} columns, {options.gib:g} GiB")
    print(f"| rows | held-out ELBO | s before the first step | s for {STEPS:,} steps | memory at most, MiB |")
    print("|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "rows.npy")
        write(data, rows)
        for number, way in enumerate(options.ways):
            print(measure(way, data, rows, Path(folder, str(number))), flush=True)


if __name__ == "__main__":
    main()
