"""Time from a CSV to a served answer, stage by stage.

    python -m tests.benchmarks.first_answer [--rows 600 10000] [--repeats 3]

Trains with the default recipe, without and with the graphs that an earlier training has traced, then serves the bundle
and scores one row. Seconds by the clock; the last column has the processor's seconds of the training.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from tests.conftest import run_server

STAGES = (
    "read",
    "import torch, split",
    "trial of the export",
    "fit",
    "export, calibrate",
    "card, write",
    "serve",
    "answer",
)
_ENDS = ("text in ", "train: ", "run: ", "drawing the model card")
"""The trainer's lines at the end of the first, second, third and fifth stage."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[600, 10_000])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    print(f"| rows | graphs | {' | '.join(STAGES)} | in all | processor |")
    print(f"|---:|---|{'---:|' * (len(STAGES) + 2)}")
    for rows in given.rows:
        for graphs in ("cold", "warm"):
            figures = np.array([_measure(rows, graphs == "warm") for _ in range(given.repeats)])
            least, most = figures.min(0), figures.max(0)
            shown = " | ".join(f"{low:.1f} to {high:.1f}" for low, high in zip(least, most, strict=True))
            print(f"| {rows:,} | {graphs} | {shown} |", flush=True)


def _measure(rows: int, warm: bool) -> list[float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(rows, folder / "rows.csv")
        if warm:
            _train(folder, "--fit.steps", "1")
        before = _processor()
        started = time.perf_counter()
        times = [*_train(folder), time.perf_counter()]
        processor = _processor() - before
        with run_server("--models", str(folder / "models"), log=folder / "log") as client:
            times.append(time.perf_counter())
            row = {"age": 40, "income": 2500.5, "hours": 38.5, "plan": "basic", "region": "north"}
            client.post("/elbo", json={"instances": [row]}).raise_for_status()
            times.append(time.perf_counter())
    stages = np.diff([started, *times])
    return [*stages, times[-1] - started, processor]


def _train(folder: Path, *options: str) -> list[float]:
    """The ends of the first five stages."""
    places = ("--out", str(folder / "models"), "--runs", str(folder / "runs"))
    command = [sys.executable, "-m", "training", "table", "--data", str(folder / "rows.csv"), *places, *options]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    ) as run:
        assert run.stderr is not None
        said = dict(_timed(run.stderr))
        assert run.wait() == 0
    metrics = max((folder / "runs").glob("*/*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    fitted = time.perf_counter() - time.time() + metrics.stat().st_mtime
    read, imported, tried, exported = (said[end] for end in _ENDS)
    return [read, imported, tried, fitted, exported]


def _timed(lines: Iterator[str]) -> Iterator[tuple[str, float]]:
    for line in lines:
        for end in _ENDS:
            if line.startswith(end):
                yield end, time.perf_counter()


def _processor() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _write(rows: int, path: Path) -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(size=rows)
    pd.DataFrame(
        {
            "age": np.clip(np.rint(40 + 12 * z + 4 * rng.normal(size=rows)), 18, 90).astype(int),
            "income": np.round(2500 + 600 * z + 200 * rng.normal(size=rows), 2),
            "hours": np.round(38 + 5 * rng.normal(size=rows), 1),
            "plan": rng.choice(["basic", "plus", "pro"], rows, p=[0.5, 0.3, 0.2]),
            "region": rng.choice(["north", "south", "east", "west"], rows),
        }
    ).to_csv(path, index=False)


if __name__ == "__main__":
    main()
