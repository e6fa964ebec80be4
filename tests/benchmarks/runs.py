"""Runs of the trainer that are ended after some epochs: what follows them is not of interest."""

import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
ALONE = ("-m", "training")


def epochs_of(
    recipe: str,
    options: list[str],
    epochs: int,
    folder: Path,
    *,
    processes: int = 1,
    threads: int = 1,
    alone: tuple[str, ...] = ALONE,
    meanwhile: Callable[[int], object] = lambda process: None,
) -> list[dict[str, str]]:
    """The rows of `metrics.csv`.

    Args:
        recipe: A named one.
        options: Of the command line.
        epochs: After so many the run is ended.
        folder: Where it keeps what it writes.
        processes: Under torchrun, if there are several.
        threads: Of each.
        alone: What Python is told where there is one process.
        meanwhile: Called with the number of the process that was started, some times a second.
    """
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), *ALONE)
    command = [sys.executable, *(torchrun if processes > 1 else alone), recipe, *options]
    command += ["--out", str(folder / "models"), "--runs", str(folder / "runs")]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "ACCELERATE_USE_CPU": "true"}
    metrics = folder / "runs" / recipe / "1" / "metrics.csv"
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while len(rows := _read(metrics)) < epochs:
            if process.poll() is not None:
                raise RuntimeError(f"{recipe} with {processes} processes ended with status {process.returncode}")
            meanwhile(process.pid)
            time.sleep(0.1)
        process.terminate()
    return rows


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
