"""Fifty labels: what they change on payments made here, of which 2 % are unmarked frauds.

    .venv/test/bin/python -m tests.benchmarks.feedback

The model is probabilistic PCA, fitted to half of the payments of May, frauds included, and calibrated on the other
half; June is scored. Then the 50 strangest payments of May get labels. Printed for June, as means over the seeds with
least and most: precision among the 100 strangest; recall of what `--fdr 0.1` calls, how many these are, and the share
of wrong calls among them.
"""

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from service.bulk.score import main as score_files
from service.bundle import Array
from service.commands.recalibrate import main as recalibrate
from tests.oracle import bring_your_own

ROWS, SHARE, LABELS, TOP, FDR, SEEDS = 8000, 0.02, 50, 100, 0.1, 5


def payments(seed: int) -> tuple[Array, Array]:
    """Payments of a month, as six numbers each on scales of one, and which are frauds."""
    rng = np.random.default_rng(seed)
    habits = np.random.default_rng(99).normal(size=(3, 6))
    x = rng.normal(size=(ROWS, 3)) @ habits + 0.4 * rng.normal(size=(ROWS, 6))
    fraud = rng.random(ROWS) < SHARE
    x[fraud] += rng.normal(0, 1.0, (fraud.sum(), 6))  # The amount, the hour, the place do not go together.
    return x, fraud


def score(bundle: Path, x: Array, folder: Path) -> tuple[Array, Array]:
    """Scores of rows, and which are called."""
    rows, out = folder / "rows.npy", folder / f"{bundle.parent.name}-{bundle.name}-{len(list(folder.iterdir()))}.csv"
    np.save(rows, x)
    with contextlib.redirect_stderr(io.StringIO()):
        score_files([str(bundle), str(rows), str(out), "--fdr", str(FDR), "--device", "cpu"])
    answer = pd.read_csv(out)
    return answer["score"].to_numpy(), answer["discovery"].to_numpy(bool)


def figures(bundle: Path, x: Array, fraud: Array, folder: Path) -> list[float]:
    scores, called = score(bundle, x, folder)
    right = (called & fraud).sum()
    wrong = 1 - right / called.sum() if called.any() else 0.0
    return [fraud[np.argsort(-scores)[:TOP]].mean(), right / fraud.sum(), called.sum(), wrong]


def write(models: Path, name: str, x: Array, keep: Array) -> Path:
    """The model of the kept payments: fitted to the even ones, and calibrated on the odd ones."""
    even = np.arange(len(x)) % 2 == 0
    weights = bring_your_own.fit(x[even & keep], 3)
    return bring_your_own.write(models, name, weights, x[~even & keep], num_draws=16)


def one(seed: int, folder: Path) -> dict[str, list[float]]:
    """The figures by stage."""
    models = folder / "models"
    (may, fraud), (june, truth) = payments(2 * seed), payments(2 * seed + 1)
    first = write(models, "first", may, np.ones(ROWS, bool))
    scores, _ = score(first, may, folder)
    labelled = np.argsort(-scores)[:LABELS]
    anomalies = labelled[fraud[labelled]]
    labels = folder / "labels.csv"
    pd.DataFrame({"row": anomalies + 1, "label": "anomaly"}).to_csv(labels, index=False)
    may_rows = folder / "may.npy"
    np.save(may_rows, may)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        recalibrate([str(first), "--data", str(may_rows), "--labels", str(labels), "--device", "cpu"])
    again = write(models, "again", may, ~np.isin(np.arange(ROWS), anomalies))
    bundles = {"before": first, "recalibrated": first.with_name("2"), "fitted again": again}
    found = {stage: figures(bundle, june, truth, folder) for stage, bundle in bundles.items()}
    return found | {"labels": [float(len(anomalies))]}


def main() -> None:
    """Print the table."""
    runs = []
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(one(seed, Path(folder)))
    for stage in runs[0]:
        values = np.array([run[stage] for run in runs])
        cells = [f"{v.mean():.2f} ({v.min():.2f} to {v.max():.2f})" for v in values.T]
        print(f"| {stage} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
