"""One process that trains against two, at the same batch over all: the held-out bound, and the time of an epoch.

    .venv/test/bin/python -m tests.benchmarks.distributed

Every run is the recipe's, stopped after some epochs; its figures are those of its `metrics.csv`. The processes speak to
one another by gloo, on this machine. An epoch's time is the median of all but the first, its look at the held-out rows
included.
"""

import argparse
import csv
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
WAYS = ((1, 1), (1, 2), (2, 1))
"""Processes, and threads of each."""

RUNS = {"digits": (40, (0, 1, 2)), "fashion-mnist": (6, (0,))}
"""For each recipe its epochs, and the seeds with which it is run."""


def run(recipe: str, processes: int, threads: int, epochs: int, seed: int, folder: Path) -> list[dict[str, str]]:
    """The epochs of a run, which is then ended: what follows them is not of interest."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(torchrun if processes > 1 else []), "-m", "training", recipe]
    options = ["--fit.epochs", str(epochs), "--fit.seed", str(seed)]
    options += ["--out", str(folder / "models"), "--runs", str(folder / "runs")]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "ACCELERATE_USE_CPU": "true"}
    metrics = folder / "runs" / recipe / "1" / "metrics.csv"
    with subprocess.Popen(
        [*command, *options], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while len(rows := _read(metrics)) < epochs:
            if process.poll() is not None:
                raise RuntimeError(f"{recipe} with {processes} processes ended with status {process.returncode}")
            time.sleep(0.2)
        process.terminate()
    return rows


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=RUNS, default=list(RUNS))
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {platform.machine()}")
    print(
        "| recipe, epochs | processes × threads | held-out ELBO, by seed | seconds an epoch, median (least to most) |"
    )
    print("|---|---|---:|---:|")
    for recipe in options.recipes:
        epochs, seeds = RUNS[recipe]
        for processes, threads in WAYS:
            bounds, seconds = [], []
            for seed in seeds:
                with tempfile.TemporaryDirectory() as folder:
                    rows = run(recipe, processes, threads, epochs, seed, Path(folder))
                bounds.append(max(float(row["held_out_elbo"]) for row in rows))
                seconds += [float(row["seconds"]) for row in rows[1:]]
            spread = f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
            shown = ", ".join(f"{bound:,.2f}" for bound in bounds)
            print(f"| {recipe}, {epochs} | {processes} × {threads} | {shown} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
