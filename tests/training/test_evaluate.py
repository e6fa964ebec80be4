"""`lowerbound evaluate`, from a file on the disk to the report, as a user would go."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle import read_bundle
from service.cli import main
from tests.training.conftest import ARGUMENTS, ROWS, SOURCE, run
from training.datasets import split
from training.evaluation.baselines import BASELINES
from training.recipes import Recipe

pytestmark = pytest.mark.slow  # A model is trained.

ROOT = Path(__file__).parents[2]


def evaluate(folder: Path, *arguments: str) -> dict[str, Any]:
    """The report on the bundle in `folder`, made by a process of its own."""
    out = folder / "report.json"
    command = [sys.executable, "-m", "service.cli", "evaluate", *arguments, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "log p(x)" in done.stdout
    report: dict[str, Any] = json.loads(out.read_text())
    return report


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz of 6,000 rows of `SOURCE`, labelled `y`: one in twenty is an anomaly, four σ off in the third column."""
    rows = SOURCE.sample(ROWS, seed=0)
    y = np.arange(ROWS) % 20 == 7
    rows[y, 2] += 4 * SOURCE.sigma[2] + 0.3
    path = tmp_path_factory.mktemp("labelled") / "rows.npz"
    np.savez(path, X=rows, y=y)
    return path


@pytest.fixture(scope="module")
def trained(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the recipe `arrays`, trained on all of `labelled`."""
    folder = tmp_path_factory.mktemp("trained")
    status, output, errors = run("arrays", "--data", str(labelled), *ARGUMENTS, folder=folder)
    assert status == 0, errors
    return Path(output.strip())


def test_the_test_part_is_found_again_and_measured(trained: Path, labelled: Path) -> None:
    report = evaluate(trained.parent, str(trained), "--label", "y", "--num-draws", "300", "--device", "cpu")
    metrics = read_bundle(trained).manifest.metrics
    assert report["rows"] == ROWS // 5
    assert report["mean_bounds"]["elbo"] == pytest.approx(metrics["test_elbo"], abs=1e-9)

    recipe = Recipe.read("arrays", ["--data", str(labelled), *ARGUMENTS])
    dataset = recipe.dataset.load(labelled)
    test = split(dataset, recipe.split).test
    truth = SOURCE.log_evidence(dataset.rows[test])
    anomalous = np.load(labelled)["y"][test]
    likelihood = report["likelihood"]
    assert likelihood["num_draws"] == 300
    assert report["mean_bounds"]["log_evidence"] <= likelihood["log_evidence"] + 1e-3
    # Near the truth on normal rows, which are 19 in 20; the model has seen the others too.
    assert likelihood["log_evidence"] == pytest.approx(truth[~anomalous].mean(), abs=1.0)
    assert likelihood["bits_per_dimension"] == pytest.approx(-likelihood["log_evidence"] / 4 / np.log(2))

    assert set(report["detection"]) == {"negative_elbo", "negative_log_evidence", "typicality"}
    assert report["detection"]["negative_elbo"]["auroc"] > 0.9
    assert set(report["baselines"]) == set(BASELINES)
    for figures in report["baselines"].values():
        assert 0.5 < figures["auroc"] <= 1
    for score in report["detection"]:
        assert report["false_alarms"][score]["10%"] == pytest.approx(0.1, abs=0.06)

    strangest = report["strangest"][0]
    assert strangest["row"] in test
    assert strangest["p_value"] == pytest.approx(1 / (1 + ROWS // 5), abs=2e-3)
    # Most of the strangest are the planted ones, and the blame falls on the cell that was changed.
    planted = [row for row in report["strangest"] if row["anomalous"]]
    assert len(planted) >= 3
    for row in planted:
        assert next(iter(row["nats"])) == "x2"
        assert row["expected"]["x2"] < dataset.rows[row["row"], 2]


def test_other_rows_are_evaluated_as_they_are(trained: Path, tmp_path: Path) -> None:
    normal, strange = SOURCE.sample(400, seed=5), SOURCE.sample(40, seed=6) + 10 * SOURCE.sigma
    other = tmp_path / "other.npz"
    np.savez(other, X=np.concatenate([normal, strange]), y=np.arange(440) >= 400)
    report = evaluate(
        tmp_path, str(trained), "--test", str(other), "--label", "y", "--no-baselines", "--num-draws", "8"
    )
    assert report["rows"] == 440
    assert "baselines" not in report
    assert report["detection"]["negative_elbo"]["auroc"] > 0.95
    assert all(row["row"] >= 400 for row in report["strangest"])


def test_data_of_another_kind_is_refused_by_name(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.npz"
    np.savez(other, X=SOURCE.sample(50, seed=8), y=np.zeros(50))
    narrow = tmp_path / "narrow.npy"
    np.save(narrow, np.random.default_rng(0).random((30, 3)))
    digits = str(ROOT / "service/models/digits/1")
    for arguments, message in (
        ((str(trained), "--data", str(other)), "other.npz: not the data that rows 1 was trained on"),
        ((str(trained), "--data", str(other), "--label", "y"), "other rows are evaluated as --test"),
        ((str(trained), "--test", str(other), "--label", "y", "--no-baselines"), "all 50 rows to evaluate have"),
        ((str(trained), "--test", str(other), "--label", "z"), "holds no 'z' but X, y"),
        ((str(trained), "--test", str(narrow)), "no column 'x3'"),
        ((str(trained), "--label", "x1"), "'x1' is a feature of the model"),
        ((digits, "--label", "y"), "data of the kind 'digits' has no labels"),
        ((str(tmp_path),), "manifest.json: cannot be read"),
        ((digits, "--num-draws", "0"), "num_draws"),
    ):
        assert main(["evaluate", *arguments, "--out", str(tmp_path / "report.json")]) == 1
        captured = capsys.readouterr()
        assert not captured.out
        assert message in captured.err
        assert not (tmp_path / "report.json").exists()
