"""The detection benchmark's own promises: fair splits, true shares of anomalies, and cells that are computed once."""

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from service.bundle import ImageInput
from service.errors import FileError, LowerboundError
from tests.benchmarks.detection import __main__ as command_line
from tests.benchmarks.detection import nll, tasks
from tests.benchmarks.detection.cells import Cells
from tests.benchmarks.detection.false_alarms import false_alarms
from tests.benchmarks.detection.methods import fit_and_score
from tests.benchmarks.detection.report import Row, contamination_table, detection_table
from training.evaluation.detection import detection_figures
from training.model.build import build
from training.recipes import Recipe

NORMAL, STRANGE = 400, 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One table whose first column numbers its rows; normal rows come first, sorted."""
    rng = np.random.default_rng(0)
    rows = np.column_stack([np.arange(NORMAL + STRANGE), rng.standard_normal((NORMAL + STRANGE, 3))])
    rows[NORMAL:, 1:] += 6
    np.savez(tmp_path / "small.npz", X=rows, y=np.arange(NORMAL + STRANGE) >= NORMAL)
    return tmp_path


def numbers(rows: tasks.Array) -> set[int]:
    return set(rows[:, 0].astype(int).tolist())


def test_half_of_the_normal_rows_train_and_all_others_test(folder: Path) -> None:
    experiment = tasks.tables(folder)
    task = experiment.make("small", 0, 0.0)
    train, test, strange = map(numbers, (task.train, task.normal, task.anomalies["anomalies"]))
    assert len(train) == len(task.train) == NORMAL // 2
    assert train | test == set(range(NORMAL))
    assert strange == set(range(NORMAL, NORMAL + STRANGE))
    # At random, not in file order.
    assert abs(np.mean(list(train)) - NORMAL / 2) < 30
    assert train != numbers(experiment.make("small", 1, 0.0).train)
    assert train == numbers(experiment.make("small", 0, 0.0).train)


@pytest.mark.parametrize(("asked", "left_in"), [(0.05, 11), (0.1, 22), (0.3, 30)])
def test_anomalies_are_left_in_as_asked_but_never_tested_too(folder: Path, asked: float, left_in: int) -> None:
    clean, task = (tasks.tables(folder).make("small", 3, share) for share in (0.0, asked))
    train = numbers(task.train)
    planted = {number for number in train if number >= NORMAL}
    assert len(planted) == left_in
    assert task.contamination == pytest.approx(left_in / (NORMAL // 2 + left_in))
    assert not planted & numbers(task.anomalies["anomalies"])
    assert len(task.anomalies["anomalies"]) == STRANGE - left_in
    assert numbers(task.normal) == numbers(clean.normal)


def test_digits_are_left_out_or_alone() -> None:
    left_out, alone = (tasks.digits(one_class=flag).make("4", 0, 0.0) for flag in (False, True))
    assert len(left_out.anomalies["anomalies"]) == len(alone.train) + len(alone.normal) == 181
    assert len(alone.anomalies["anomalies"]) == len(left_out.train) + len(left_out.normal) == 1797 - 181


def test_one_class_of_clothes_trains_and_all_test(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(10, dtype=np.uint8), 4)
    images = np.tile(labels[:, None, None], (1, 28, 28))
    for part in ("train", "t10k"):
        header = bytes([0, 0, 8, 3]) + struct.pack(">3I", 40, 28, 28)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        packed = gzip.compress(bytes([0, 0, 8, 1]) + struct.pack(">I", 40) + labels.tobytes())
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(packed)
    task = tasks.fashion_one_class(tmp_path).make("7", 0, 0.0)
    assert task.train.shape == task.normal.shape == (4, 28, 28)
    assert (task.train == 7).all()
    assert (task.normal == 7).all()
    assert np.bincount(task.anomalies["the others"][:, 0, 0]).tolist() == [4, 4, 4, 4, 4, 4, 4, 0, 4, 4]


@pytest.mark.slow
def test_the_recipe_finds_a_digit_left_out(tmp_path: Path) -> None:
    # The AUROC is 0.92; without exemplars it is 0.80, and with a discretised logistic 0.40.
    task = tasks.digits(one_class=False).make("1", 0, 0.0)
    rows = np.concatenate([task.normal, task.anomalies["anomalies"]])
    recipe = Recipe.read("digits", ["--fit.epochs", "60"])
    scored = fit_and_score(recipe, task.data, task.train, rows, seed=0, run=tmp_path)
    anomalous = np.arange(len(rows)) >= len(task.normal)
    assert detection_figures(scored.scores[scored.default], anomalous)["auroc"] > 0.88


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no \.npz"):
        tasks.tables(tmp_path)


def test_exchangeable_scores_alarm_as_often_as_promised() -> None:
    rng = np.random.default_rng(1)
    rates = false_alarms(rng.standard_normal(4000), 5 + rng.standard_normal(600), seed=0)
    assert rates is not None
    for level in (0.01, 0.05, 0.1):
        mean, error = rates[f"alarms at {level:.0%}"]
        assert 0 < error < level
        assert abs(mean - level) < 4 * error
        mean, error = rates[f"discoveries at {level:.0%}"]
        # Nine in ten tested rows are normal: Benjamini and Hochberg's rule uses up to 0.9 q; p-values in whole
        # thousandths cost some of it.
        assert 0.5 * level < mean < 0.9 * level + 4 * error
    assert false_alarms(rng.standard_normal(199), rng.standard_normal(50), seed=0) is None


def test_cells_outlive_a_crash(tmp_path: Path) -> None:
    cells = Cells(tmp_path / "cells.jsonl")
    cells.add({"case": "a", "seed": 0}, {"figures": 1})
    cells.add({"case": "b", "seed": 0}, {"figures": 2})
    cells.path.write_bytes(cells.path.read_bytes()[:-9])
    again = Cells(cells.path)
    assert again.get({"seed": 0, "case": "a"}) == {"figures": 1}
    assert again.get({"seed": 0, "case": "b"}) is None
    again.add({"case": "b", "seed": 0}, {"figures": 3})
    assert Cells(cells.path).get({"case": "b", "seed": 0}) == {"figures": 3}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["detection", *arguments])
    return command_line.main()


@pytest.mark.slow
def test_a_table_is_filled_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *("tables", "--tables", str(folder), "--seeds", "0", "1", "--methods", "Lowerbound", "kNN", "Σz²"),
        *("--keep", str(tmp_path / "keep"), "--fit.steps", "200", "--model.widths", "[32]"),
    ]
    assert run(monkeypatch, *arguments) == 0
    table = capsys.readouterr().out
    assert (tmp_path / "keep/tables.md").read_text() == table
    (line,) = [line for line in table.splitlines() if line.startswith("| small: anomalies |")]
    values = [float(cell.strip(" *").partition(" ")[0]) for cell in line.split("|")[2:-1]]
    assert len(values) == 3
    assert min(values) > 95
    lines = (tmp_path / "keep/cells.jsonl").read_text().splitlines()
    assert len(lines) == 6
    assert sorted(path.name for path in (tmp_path / "keep").iterdir()) == ["cells.jsonl", "log", "tables.md"]

    assert run(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out == table
    assert run(monkeypatch, *arguments[:-1], "[16]") == 0
    # Another recipe is another cell; baselines are what they were.
    assert len((tmp_path / "keep/cells.jsonl").read_text().splitlines()) == 8


@pytest.mark.slow
def test_the_likelihood_of_coin_tosses_is_their_entropy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # One corner is never white, one always; the other two are tossed: the best model has 2 log 2 = 1.386 nats.
    image = np.array([[0, 255], [128, 128]], np.uint8)
    for name, size in (("train", nll.VALIDATION + 2000), ("t10k", 2000)):
        header = bytes([0, 0, 8, 3]) + struct.pack(">3I", size, 2, 2)
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(header + np.tile(image, (size, 1, 1)).tobytes())
    keep = ("--fashion", str(tmp_path), "--keep", str(tmp_path / "keep"), "--seeds", "0", "--draws", "600")
    fit = ("--fit.epochs", "8", "--fit.warmup_epochs", "0", "--fit.learning_rate", "0.01", "--model.widths", "[8]")
    recipe = Path(nll.__file__).parent / "recipes" / "nll-mlp.yaml"
    rest = ("--recipe", str(recipe), "--rows", "1500", "--model.latent_size", "2", "--model.components", "4")
    assert run(monkeypatch, "nll", *keep, *fit, *rest) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| nll-mlp |")]
    nats, negative_elbo = map(float, line.split("|")[3:5])
    assert nats == pytest.approx(2 * np.log(2), abs=0.05)
    assert nats <= negative_elbo + 0.01


@pytest.mark.parametrize("path", command_line.NLL_RECIPES, ids=lambda path: Path(path).stem)
def test_every_recipe_of_the_likelihood_is_one_of_binary_images(path: str) -> None:
    recipe = Recipe.read(path, [])
    images = np.random.default_rng(0).integers(0, 2, (3, 28, 28), np.uint8)
    data = ImageInput(shape=(28, 28), dtype="uint8", low=0, high=1)
    vae = build(recipe.model, data, images, seed=0).eval()
    with torch.no_grad():
        found = vae.bounds(torch.from_numpy(images), torch.zeros(1, recipe.model.latent_size))
    assert found.elbo.shape == (3,)
    assert found.elbo.isfinite().all()


def test_a_table_without_its_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for table in ("tables", "shift"):
        assert run(monkeypatch, table, "--keep", str(tmp_path)) == 1
        assert f"{table} needs --" in capsys.readouterr().err
    assert issubclass(FileError, LowerboundError)


def row(case: str, method: str, seed: int, auroc: float, share: float = 0.0) -> Row:
    cell = {"default": "s", "figures": {"anomalies": {"s": {"auroc": auroc}}}, "contamination": share}
    return Row("tables", case, method, seed, share, cell)


def test_means_are_over_cases_and_spreads_over_seeds() -> None:
    rows = [row("a", "kNN", 0, 0.8), row("a", "kNN", 1, 0.9), row("b", "kNN", 0, 0.6), row("b", "kNN", 1, 0.6)]
    lines = detection_table([*rows, row("a", "Σz²", 0, 0.7)]).splitlines()
    assert lines[2] == "| a: anomalies | **85.00 ± 7.07** | 70.00 |"
    # A method that has not every case has no mean to compare.
    assert lines[4] == "| **mean** | **72.50** |  |"


def test_the_drop_is_from_clean_to_most_contaminated() -> None:
    rows = [row("a", "kNN", 0, 0.9), row("a", "kNN", 0, 0.85, 0.05), row("a", "kNN", 0, 0.82, 0.1)]
    assert contamination_table(rows, str).splitlines()[-1] == (
        "| tables | kNN | 90.00 | 85.00 | 82.00 | 8.00 | 10.0 to 10.0 |"
    )
