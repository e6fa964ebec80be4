"""How many anomalies among the training rows `lowerbound train --screen` finds.

    .venv/benchmark/bin/python -m tests.benchmarks.screening --tables FOLDER --cases 6_cardio 20_letter

Each table's training rows hold 10 % of anomalies (or half of the table's, if these are fewer), as in `contamination`.
Printed: how many of n planted ones are among the first n rows of the file and among the first 2n, and the AUROC of its
order; beside it the AUROC of kNN among the same rows, each row left out of its own neighbours.
"""

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from tests.benchmarks.detection import tasks
from training.datasets import Dataset
from training.recipes import Recipe
from training.screening import screen

NEIGHBOURS = 5


def knn(rows: tasks.Array) -> tasks.Array:
    """The distance to each row's fifth neighbour, on standardised columns, (N,)."""
    x = StandardScaler().fit_transform(rows)
    return np.asarray(NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(x).kneighbors(x)[0][:, -1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--cases", nargs="*", default=[])
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    experiment = tasks.tables(given.tables)
    console = Console(file=sys.stderr)
    print("| table | rows | planted | among the first n | among the first 2n | AUROC | kNN |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for case in given.cases or experiment.cases:
        with tempfile.TemporaryDirectory() as folder:
            task = experiment.make(case, given.seed, given.share)
            planted = round(task.contamination * len(task.train))
            odd = np.arange(len(task.train)) >= len(task.train) - planted
            recipe = Recipe.read("table", ["--data", case, "--runs", folder])
            path = Path(folder, "screen.csv")
            screen(recipe, Dataset(task.data, task.train), path, console)
            with path.open() as file:
                order = np.array([int(row["row"]) - 1 for row in csv.DictReader(file)])
            first, second = (int(odd[order[: factor * planted]].sum()) for factor in (1, 2))
            auroc = roc_auc_score(odd[order], -np.arange(len(order)))
            near = roc_auc_score(odd, knn(np.nan_to_num(task.train)))
            figures = f"{first / planted:.0%} | {second / planted:.0%} | {auroc:.2%} | {near:.2%}"
            print(f"| {case} | {len(odd):,} | {planted} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
