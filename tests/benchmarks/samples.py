"""Samples that could exist: the share of made-up rows with a number that their column cannot have.

    .venv/test/bin/python -m tests.benchmarks.samples [--rows 2000] [--steps 1000]

Trains the recipe `table` on three tables of scikit-learn, serves each model, and asks for rows. A number is wrong if it
lies outside the training rows' smallest to largest, or is no multiple of their step (whole numbers, tenths, ...).
Printed for what the graphs give, as the service answered before, and for what it answers.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from service.bundle import Array, Manifest, NumericColumn, read_bundle
from service.engine import OnnxEngine
from service.scoring import noise
from tests.conftest import run_server

TABLES = {
    "wine": lambda: load_wine(as_frame=True).frame,
    "diabetes": lambda: load_diabetes(as_frame=True, scaled=False).frame,
    "breast cancer": lambda: load_breast_cancer(as_frame=True).frame,
}
SEED = 0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=1000)
    given = parser.parse_args()
    print("| table | rows of | graphs: out of bounds | graphs: off the step | served: either |")
    print("|---|---|---:|---:|---:|")
    for name, load in TABLES.items():
        with tempfile.TemporaryDirectory() as folder:
            load().to_csv(Path(folder) / "rows.csv", index=False)
            _train(Path(folder), given.steps)
            _measure(name, Path(folder), given.rows)


def _train(folder: Path, steps: int) -> None:
    places = ("--data", "rows.csv", "--out", "models", "--runs", "runs", "--name", "made")
    command = [sys.executable, "-m", "training", "table", *places, "--fit.steps", str(steps)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


def _measure(name: str, folder: Path, rows: int) -> None:
    bundle = read_bundle(folder / "models" / "made" / "1")
    engine = OnnxEngine(bundle.manifest.graphs, bundle.files, "cpu")
    with run_server("--models", str(folder / "models"), log=folder / "log") as client:
        sampled = client.get("/sample", params={"n": rows, "seed": SEED}).raise_for_status().json()
        z = np.array(sampled["latents"], np.float32)
        shape = (rows, len(bundle.manifest.input.features))
        random = {"normal": noise.standard_normal(SEED, shape, 1), "uniform": noise.uniform(SEED, shape, 2)}
        drawn = _post(client, z)
        answers = {
            "`/sample`": (engine.run("decoder", {"z": z})["x_mean"], sampled["instances"]),
            "`/decode?draw=true`": (engine.run("draw", {"z": z, **random})["x"], drawn),
        }
    features = bundle.manifest.input.features
    for kind, (raw, served) in answers.items():
        outside, off = _wrong(raw, bundle.manifest)
        wrong = np.any(_wrong(np.array([[row[column] for column in features] for row in served]), bundle.manifest), 0)
        print(f"| {name} | {kind} | {outside.mean():.1%} | {off.mean():.1%} | {wrong.mean():.1%} |", flush=True)


def _post(client: httpx.Client, z: Array) -> list[dict[str, float]]:
    answer = client.post("/decode", params={"draw": True, "seed": SEED}, json={"latents": z.tolist()})
    rows: list[dict[str, float]] = answer.raise_for_status().json()["instances"]
    return rows


def _wrong(x: Array, manifest: Manifest) -> tuple[Array, Array]:
    """Which rows have a number out of bounds, and which have one that is no multiple of its column's step."""
    outside, off = np.zeros((2, len(x)), bool)
    assert manifest.input.kind == "tabular"
    for values, column in zip(x.T, manifest.input.columns, strict=True):
        if not isinstance(column, NumericColumn) or (known := column.training_range) is None:
            continue
        outside |= (values < known.low) | (values > known.high)
        if known.step:
            steps = (values - known.low) / known.step
            off |= np.abs(steps - np.rint(steps)) > 1e-6
    return outside, off


if __name__ == "__main__":
    main()
