"""One process that trains against two, at the same batch over all: the held-out bound, and the time of an epoch.

    .venv/test/bin/python -m tests.benchmarks.distributed

Every run is the recipe's, stopped after some epochs; its figures are those of its `metrics.csv`. The processes speak to
one another by gloo, on this machine. An epoch's time is the median of all but the first, its look at the held-out rows
included.
"""

import argparse
import os
import platform
import statistics
import tempfile
from pathlib import Path

from tests.benchmarks.runs import epochs_of

WAYS = ((1, 1), (1, 2), (2, 1))
"""Processes, and threads of each."""

RUNS = {"digits": (40, (0, 1, 2)), "fashion-mnist": (6, (0,))}
"""For each recipe its epochs, and the seeds with which it is run."""


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
                    given = ["--fit.epochs", str(epochs), "--fit.seed", str(seed)]
                    rows = epochs_of(recipe, given, epochs, Path(folder), processes=processes, threads=threads)
                bounds.append(max(float(row["held_out_elbo"]) for row in rows))
                seconds += [float(row["seconds"]) for row in rows[1:]]
            spread = f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
            shown = ", ".join(f"{bound:,.2f}" for bound in bounds)
            print(f"| {recipe}, {epochs} | {processes} × {threads} | {shown} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
