"""False alarms of rows with missing cells, and whether a blank cell hides an anomaly beside it.

    python -m tests.benchmarks.missing_cells [--repeats 20] [--held-out 999] [--rows 1000]

Trains a model of a table with five columns once. Each repeat draws held-out rows and test rows anew, and scores them by
the exported graphs. In the anomalies the hours are four standard deviations off.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from service.bundle import Array, Bundle, read_bundle
from service.engine import OnnxEngine
from service.scoring import HeldOutScores, p_values, scores
from training.evaluation.bounds import bounds
from training.evaluation.missing_cells import missing_cell_scores

LEVELS = np.array([0.01, 0.05, 0.1])
PLANS = ("basic", "plus", "pro")
REGIONS = ("east", "north", "south", "west")
HOURS = 2
"""The column of the anomalies."""

Score = Callable[[Array], dict[str, Array]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--held-out", type=int, default=999)
    parser.add_argument("--rows", type=int, default=1000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = _train(Path(folder))
        engine = OnnxEngine(bundle.manifest.graphs, bundle.files, "cpu")

    def score(x: Array) -> dict[str, Array]:
        made = scores(bounds(engine, x, bundle.calibration["noise"]))
        return {"negative_elbo": made["negative_elbo"]}

    print(f"{given.repeats} times {given.held_out:,} held-out and {given.rows:,} test rows; mean ± standard error\n")
    print("| held-out rows | test rows | alarms at 1 % | 5 % | 10 % | without p-value | anomalies at 5 % | before |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for share in (0.0, 0.2):
        held_out = [_blank(_draw(given.held_out, seed), share, seed) for seed in range(given.repeats)]
        answers = [_calibrate(score, x) for x in held_out]
        for blanks in (0, 1, 2, None):
            figures = np.array(
                [_figures(score, *answer, given.rows, blanks, 1000 + i) for i, answer in enumerate(answers)]
            )
            mean, error = figures.mean(0), figures.std(0, ddof=1) / np.sqrt(given.repeats)
            alarms = " | ".join(f"{100 * m:.2f} ± {100 * e:.2f}" for m, e in zip(mean[:3], error[:3], strict=True))
            others = " | ".join(f"{100 * m:.1f} %" for m in mean[3:])
            kind = "20 % blank" if blanks is None else f"{blanks} blank"
            print(f"| {100 * share:.0f} % blank | {kind} | {alarms} | {others} |", flush=True)


def _calibrate(score: Score, x: Array) -> tuple[HeldOutScores, Array]:
    """The comparison of today, and the earlier one with all held-out rows as they are."""
    own = score(x)
    everything = np.sort(own["negative_elbo"])
    return HeldOutScores.read("negative_elbo", everything, missing_cell_scores(score, x, own)), everything


def _figures(
    score: Score, held_out: HeldOutScores, everything: Array, rows: int, blanks: int | None, seed: int
) -> list[float]:
    """Shares of rows: false alarms at each level, without a p-value, anomalies at 5 %, and those as before."""
    x = _lack(_draw(rows, seed), blanks, seed)
    p = held_out.p_values(score(x)["negative_elbo"], x)
    strange = x.copy()
    strange[:, HOURS] = np.where(np.isnan(x[:, HOURS]), np.nan, 58.0)
    strange = strange[~np.isnan(strange[:, HOURS])]
    values = score(strange)["negative_elbo"]
    found = [held_out.p_values(values, strange) <= LEVELS[1], p_values(values, everything) <= LEVELS[1]]
    return [*(p[:, None] <= LEVELS + 1e-12).mean(0), np.isnan(p).mean(), *(float(f.mean()) for f in found)]


def _draw(rows: int, seed: int) -> Array:
    """Rows as the graphs take them: age, income, hours, and the codes of plan and region."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=rows)
    return np.column_stack(
        [
            np.clip(np.rint(40 + 12 * z + 4 * rng.normal(size=rows)), 18, 90),
            np.round(2500 + 600 * z + 200 * rng.normal(size=rows), 2),
            np.round(38 + 5 * rng.normal(size=rows), 1),
            rng.choice(3, rows, p=[0.5, 0.3, 0.2]),
            rng.choice(4, rows),
        ]
    )


def _blank(x: Array, share: float, seed: int) -> Array:
    return np.where(np.random.default_rng([1, seed]).random(x.shape) < share, np.nan, x)


def _lack(x: Array, blanks: int | None, seed: int) -> Array:
    """So many blank cells in each row, at random; None: each cell with probability 20 %."""
    if blanks is None:
        return _blank(x, 0.2, seed)
    order = np.random.default_rng([2, seed]).permuted(np.tile(np.arange(x.shape[1]), (len(x), 1)), axis=1)
    return np.where(order < blanks, np.nan, x)


def _train(folder: Path) -> Bundle:
    x = _draw(2000, 10**6)
    numbers = {name: x[:, i] for i, name in enumerate(("age", "income", "hours"))}
    texts = {"plan": np.array(PLANS)[x[:, 3].astype(int)], "region": np.array(REGIONS)[x[:, 4].astype(int)]}
    pyarrow.csv.write_csv(pa.table(numbers | texts), folder / "rows.csv")
    places = ["--data", str(folder / "rows.csv"), "--out", str(folder / "models"), "--runs", str(folder / "runs")]
    options = ["--fit.steps", "1500", "--bound.num_draws", "8", "--bound.refine", "0"]
    command = [sys.executable, "-m", "training", "table", *places, *options]
    subprocess.run(command, check=True, capture_output=True)
    return read_bundle(folder / "models" / "rows" / "1")


if __name__ == "__main__":
    main()
