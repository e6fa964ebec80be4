"""From a file on the disk to answers over HTTP, as a user would go."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from service.bundle import read_bundle
from service.cli import main
from service.engine import OnnxEngine
from service.scoring import noise
from tests.conftest import Serve
from tests.training.conftest import ARGUMENTS, run, run_here
from training.datasets import Dataset, split
from training.model import VAE
from training.model.build import build
from training.recipes import Recipe

QUICK = ("--fit.steps", "8", "--fit.warmup_epochs", "0", "--bound.num_draws", "4", "--model.latent_size", "2")


def original(recipe: Recipe, folder: Path) -> tuple[VAE, Dataset]:
    """The trained VAE in PyTorch, from its run's best weights, and its data."""
    dataset = recipe.dataset.load(recipe.data)
    rows = dataset.rows[split(dataset, recipe.split).train]
    vae = build(recipe.model, dataset.input, rows, seed=99).eval()
    vae.load_state_dict(load_file(folder / "runs" / recipe.name / "1" / "best.safetensors"))
    return vae, dataset


def compare_with_torch(client: httpx.Client, recipe: Recipe, folder: Path, instances: Any) -> None:
    vae, dataset = original(recipe, folder)
    base_samples = noise.base_samples(recipe.bound.seed, recipe.bound.num_draws, recipe.model.latent_size)
    answer = client.post("/elbo", json={"instances": instances}).raise_for_status().json()
    with torch.no_grad():
        expected = vae.bounds(torch.from_numpy(dataset.rows[: len(instances)]), torch.from_numpy(base_samples))
    for name, values in expected._asdict().items():
        np.testing.assert_allclose(answer[name], values, rtol=1e-5, atol=1e-3, err_msg=name)
    assert np.ptp(answer["elbo"]) > 0


# A table


def people(rows: int, seed: int) -> list[dict[str, Any]]:
    """Height and weight go together, sex shifts both, work decides income; one income in ten is missing."""
    rng = np.random.default_rng(seed)
    records: list[dict[str, Any]] = []
    for _ in range(rows):
        size = rng.standard_normal()
        male = bool(rng.random() < 0.5)
        work = str(rng.choice(["clerk", "pilot", "nurse"]))
        height = 168 + 6 * size + 8 * male + rng.standard_normal()
        weight = 66 + 9 * size + 10 * male + 2 * rng.standard_normal()
        income = {"clerk": 30, "pilot": 90, "nurse": 45}[work] * 1000 * np.exp(0.05 * rng.standard_normal())
        missing = rng.random() < 0.1
        records.append(
            {
                "height": round(height, 1),
                "weight": round(weight, 1),
                "male": male,
                "work": work,
                "income": None if missing else round(income),
            }
        )
    return records


def write_people(path: Path, seed: int) -> None:
    with path.open("w", newline="") as file:
        records = people(3000, seed)
        writer = csv.DictWriter(file, records[0])
        writer.writeheader()
        writer.writerows({name: "" if value is None else value for name, value in r.items()} for r in records)


@pytest.fixture(scope="module")
def people_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on 3,000 people: runs/people/1, models/people/1 and a log."""
    folder = tmp_path_factory.mktemp("people")
    write_people(folder / "people.csv", seed=0)
    status, output, errors = run_here(
        *("table", "--data", str(folder / "people.csv"), "--model.widths", "[64]", "--model.latent_size", "4"),
        *("--fit.steps", "1200", "--fit.batch_size", "64", "--fit.learning_rate", "0.003", "--fit.warmup_epochs", "0"),
        folder=folder,
    )
    assert status == 0, errors
    assert output.strip() == str(folder / "models" / "people" / "1")
    (folder / "log").write_text(errors)
    return folder


@pytest.fixture(scope="module")
def people_client(people_folder: Path, serve: Serve) -> Iterator[httpx.Client]:
    with serve("--models", str(people_folder / "models"), "--device", "cpu") as client:
        yield client


def elbo(client: httpx.Client, instances: Any, **query: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.post("/elbo", json={"instances": instances}, params=query).raise_for_status().json()
    return answer


def test_the_schema_is_the_file_s(people_client: httpx.Client) -> None:
    manifest = people_client.get("/model").raise_for_status().json()["manifest"]
    assert [(column["name"], column["type"]) for column in manifest["input"]["columns"]] == [
        ("height", "numeric"),
        ("weight", "numeric"),
        ("male", "categorical"),
        ("work", "categorical"),
        ("income", "numeric"),
    ]
    assert manifest["input"]["columns"][3]["categories"] == ["clerk", "nurse", "pilot"]
    assert manifest["metrics"]["test_elbo"] == pytest.approx(manifest["metrics"]["validation_elbo"], abs=0.5)


@pytest.mark.parametrize(
    ("column", "wrong"), [("weight", 20.0), ("height", 120.0), ("income", 400_000), ("work", "pilot")]
)
def test_a_planted_cell_is_found_and_named(people_client: httpx.Client, column: str, wrong: Any) -> None:
    records = people(200, seed=1)
    planted = next(i for i, r in enumerate(records) if r["work"] == "clerk" and r["income"] and r["weight"] > 60)
    records[planted] = records[planted] | {column: wrong}
    answer = elbo(people_client, records, explain=True)
    assert int(np.argmin(answer["elbo"])) == planted
    assert answer["p_value"][planted] == min(answer["p_value"]) < 0.01
    surprise = answer["feature_surprise"][planted]
    # A pilot with the pay of a clerk and a clerk with the work of a pilot are the same row: either cell may be wrong.
    assert max(surprise, key=surprise.__getitem__) in ({"work", "income"} if column == "work" else {column})
    by_column = np.array([list(row.values()) for row in answer["feature_log_likelihood"]])
    np.testing.assert_allclose(by_column.sum(1), answer["log_likelihood"], atol=1e-3)


def test_a_surprise_is_what_the_expected_value_gains(people_client: httpx.Client) -> None:
    records = [r for r in people(40, seed=6) if r["income"]][:4]
    records[0] |= {"income": None}
    answer = elbo(people_client, records, explain=True)
    for column in records[0]:
        expected = [row[column] for row in answer["feature_expected"]]
        filled = [r | {column: value} for r, value in zip(records, expected, strict=True)]
        rise = np.subtract(elbo(people_client, filled)["elbo"], answer["elbo"])
        surprise = [row[column] for row in answer["feature_surprise"]]
        np.testing.assert_allclose(surprise[1:], rise[1:], atol=1e-9)
        assert surprise[0] == (0 if column == "income" else pytest.approx(rise[0]))
    # The expected value of a missing income is the pay of such work.
    earns = {"clerk": 30_000, "nurse": 45_000, "pilot": 90_000}[str(records[0]["work"])]
    assert answer["feature_expected"][0]["income"] == pytest.approx(earns, rel=0.15)
    assert answer["feature_expected"][0]["work"] in {"clerk", "nurse", "pilot"}


def test_the_held_out_scores_are_those_of_the_calibration_rows(people_folder: Path) -> None:
    bundle = read_bundle(people_folder / "models" / "people" / "1")
    recipe = Recipe.read("table", ["--data", str(people_folder / "people.csv")])
    dataset = recipe.dataset.load(recipe.data)
    rows = dataset.rows[split(dataset, recipe.split).calibration]
    engine = OnnxEngine(bundle.manifest.graphs, bundle.files, "cpu")
    bounds = engine.run("elbo", {"x": rows, "noise": bundle.calibration["noise"]})
    np.testing.assert_array_equal(bundle.calibration["negative_elbo"], np.sort(-bounds["elbo"]))


def test_p_values_of_fresh_normal_rows_are_uniform(people_client: httpx.Client) -> None:
    p_values = np.array(elbo(people_client, people(2000, seed=2))["p_value"])
    for level in (0.05, 0.25, 0.5, 0.75):
        # 600 calibration rows and 2000 new ones: four standard deviations of both.
        assert (p_values <= level).mean() == pytest.approx(
            level, abs=4 * np.sqrt(level * (1 - level) * (1 / 600 + 1 / 2000))
        )


def test_missing_values_are_null(people_client: httpx.Client) -> None:
    record = people(1, seed=3)[0] | {"income": 31000, "work": "clerk"}
    empty = dict.fromkeys(record)
    without = record | {"income": None}
    answer = elbo(people_client, [record, without, empty], explain=True)
    by_column = answer["feature_log_likelihood"]
    assert by_column[0]["income"] != 0
    assert by_column[1]["income"] == 0
    assert set(by_column[2].values()) == {0}
    assert answer["log_likelihood"][2] == 0
    assert answer["elbo"][2] == -answer["kl"][2]
    assert min(answer["kl"]) >= 0


def test_a_missing_cell_does_not_hide_a_planted_one(people_client: httpx.Client) -> None:
    """Whether or not the column lacks cells in training."""
    for column in ("income", "work"):
        records = [record | {column: None} for record in people(40, seed=7)]
        assert np.mean(np.array(elbo(people_client, records)["p_value"]) <= 0.05) < 0.2
        planted = [record | {"weight": 20.0} for record in records]
        assert max(elbo(people_client, planted)["p_value"]) <= 0.01


def test_lists_in_column_order_are_the_same_rows(people_client: httpx.Client) -> None:
    records = people(5, seed=4)
    assert elbo(people_client, records) == elbo(people_client, [list(record.values()) for record in records])


@pytest.mark.parametrize(
    ("change", "location"),
    [
        ({"work": "astronaut"}, "instances[1].work"),
        ({"male": 1}, "instances[1].male"),
        ({"height": "tall"}, "instances[1].height"),
    ],
)
def test_what_the_table_never_had_is_refused(
    people_client: httpx.Client, change: dict[str, Any], location: str
) -> None:
    records = people(2, seed=5)
    answer = people_client.post("/elbo", json={"instances": [records[0], records[1] | change]})
    assert answer.status_code == 422
    assert answer.json()["location"] == location


def test_samples_look_like_the_table(people_client: httpx.Client) -> None:
    rows = people_client.get("/sample", params={"n": 500}).raise_for_status().json()["instances"]
    heights, weights = (np.array([row[name] for row in rows]) for name in ("height", "weight"))
    assert {row["work"] for row in rows} <= {"clerk", "nurse", "pilot"}
    assert {row["male"] for row in rows} == {False, True}
    assert np.mean(heights) == pytest.approx(172, abs=3)
    assert np.corrcoef(heights, weights)[0, 1] > 0.8


def test_samples_could_exist(people_client: httpx.Client) -> None:
    """Numbers of samples and draws have the training rows' decimals and bounds, at any temperature."""
    sampled = people_client.get("/sample", params={"n": 200, "temperature": 3}).raise_for_status().json()
    answer = people_client.post("/decode", params={"draw": True}, json={"latents": sampled["latents"]})
    known = people(3000, seed=0)
    for row in [*sampled["instances"], *answer.raise_for_status().json()["instances"]]:
        for name, decimals in (("height", 1), ("weight", 1), ("income", 0)):
            assert row[name] == round(row[name], decimals)
            assert min(r[name] for r in known if r[name]) <= row[name] <= max(r[name] for r in known if r[name])


@pytest.mark.slow
def test_a_run_is_exported_as_it_was_published(
    people_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(people_folder / "runs" / "people" / "1")
    assert main(["export", run, "--out", str(tmp_path)]) == 0
    first, again = (read_bundle(root / "people" / "1") for root in (people_folder / "models", tmp_path))
    assert again.manifest.metrics == first.manifest.metrics
    for name in ("elbo.onnx", "weights.bin", "calibration.npz"):
        assert again.files[name] == first.files[name]

    other = tmp_path / "other.csv"
    write_people(other, seed=9)
    assert main(["export", run, "--out", str(tmp_path), "--data", str(other)]) == 1
    assert f"error: {other}: not the rows that {run} was trained on" in capsys.readouterr().err
    assert main(["export", str(tmp_path)]) == 1
    assert f"error: {tmp_path}: not the folder of a run" in capsys.readouterr().err


# Arrays and images


def test_a_log_says_what_is_under_way(people_folder: Path) -> None:
    lines = (people_folder / "log").read_text().splitlines()
    assert all(line.strip() for line in lines)
    epochs = [line.split()[1].partition("/") for line in lines if line.startswith("epoch ")]
    assert [int(number) for number, _, _ in epochs] == list(range(1, len(epochs) + 1))
    assert {int(most) >= len(epochs) > 1 for _, _, most in epochs} == {True}
    stages = [line.partition(", after ") for line in lines if ", after " in line]
    assert [stage for stage, _, _ in stages] == [
        "exporting the graphs",
        "calibrating on 600 rows",
        "choosing the default score on 300 rows",
        "measuring 600 test rows",
        "drawing the model card",
    ]
    seconds = [float(after.removesuffix(" s")) for _, _, after in stages]
    assert seconds == sorted(seconds)
    assert seconds[-1] > 0


@pytest.mark.slow
def test_an_npy_table_is_served_as_torch_scores_it(uninterrupted: Path, source_rows: Path, serve: Serve) -> None:
    recipe = Recipe.read("arrays", ["--data", str(source_rows), *ARGUMENTS])
    with serve("--models", str(uninterrupted / "models"), "--device", "cpu") as client:
        compare_with_torch(client, recipe, uninterrupted, np.load(source_rows)[:7].tolist())


@pytest.mark.slow
def test_a_folder_of_pictures_is_served_as_torch_scores_it(tmp_path: Path, serve: Serve) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    images = np.clip(rng.normal(rng.uniform(60, 200, (60, 1, 1, 3)), 20, (60, 9, 7, 3)), 0, 255).astype(np.uint8)
    for i, image in enumerate(images):
        Image.fromarray(image).save(pictures / f"{i:02}.png")
    arguments = ["--data", str(pictures), "--model.widths", "[6,8]", *QUICK]
    status, _, errors = run("images", *arguments, folder=tmp_path)
    assert status == 0, errors
    with serve("--models", str(tmp_path / "models"), "--device", "cpu") as client:
        compare_with_torch(client, Recipe.read("images", arguments), tmp_path, images[:5].tolist())
        sent = client.post("/elbo", content=(pictures / "00.png").read_bytes(), headers={"Content-Type": "image/png"})
        assert sent.status_code in {200, 415}
        if sent.status_code == 200:
            assert sent.json()["elbo"] == elbo(client, images[:1].tolist())["elbo"]


# Broken data


def test_a_broken_row_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("age,city\n" + "".join(f"{20 + i},{'AB'[i % 2]}\n" for i in range(40)) + "4o,A\n61,B\n")
    status, output, errors = run("table", "--data", str(path), *QUICK, folder=tmp_path)
    assert status == 1
    assert not output
    assert "Traceback" not in errors
    assert f"{path}, row 41 (line 42), column 'age': '4o' is not a number" in errors
    assert [file.name for file in tmp_path.iterdir()] == ["people.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("table", "--data", "absent.csv"), "absent.csv: no such file or folder"),
        (("table",), "needs a path"),
        (("digits", "--model.likelihood", "bernoulli"), "black or white"),
        (("digits", "--fit.epochs", "none"), "fit.epochs"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--out", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    assert main(["train", *arguments, *places]) == 1
    captured = capsys.readouterr()
    assert not captured.out
    assert message in captured.err.strip().splitlines()[-1]
    assert not list(tmp_path.rglob("*"))
