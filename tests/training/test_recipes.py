"""Recipes: named runs, corrected on the command line, refused by field."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.scoring import MAX_DRAWS
from training.recipe_files import RecipeError, names
from training.recipes import Recipe

MINIMAL = "name: mine\ndataset: {kind: table}\nmodel: {likelihood: mixed}\n"


def recipe(tmp_path: Path, text: str = MINIMAL) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", names())
def test_every_named_recipe_reads_and_records(name: str) -> None:
    read = Recipe.read(name, [])
    record = read.record()
    assert record == json.loads(json.dumps(record))
    assert record.keys() == {"name", "data", "dataset", "split", "model", "fit", "bound"}
    assert Recipe.model_validate(record).record() == record


def test_names() -> None:
    assert {"digits", "table", "images", "arrays"} <= set(names())


@pytest.mark.parametrize(
    ("recipe", "data", "name"),
    [
        ("table", "Card payments.2026.csv.gz", "card-payments-2026"),
        ("table", "s3://bucket/Größen.parquet/", "groen"),
        ("images", "/pictures of parts/", "pictures-of-parts"),
        ("arrays", "_-.npy", "model"),
        ("digits", "/anything.npy", "digits"),
    ],
)
def test_a_model_is_named_after_its_data_unless_the_recipe_has_a_name(recipe: str, data: str, name: str) -> None:
    assert Recipe.read(recipe, ["--data", data]).name == name
    assert Recipe.read(recipe, ["--data", data, "--name", "told"]).name == "told"


def test_fields_are_corrected_one_by_one() -> None:
    read = Recipe.read(
        "digits",
        ["--fit.epochs", "3", "--model.widths", "[8,4]", "--bound.num_draws=2", "--name", "other", "--split.seed", "9"],
    )
    default = Recipe.read("digits", [])
    assert (read.fit.epochs, read.model.widths, read.bound.num_draws) == (3, (8, 4), 2)
    assert (read.name, read.split.seed) == ("other", 9)
    # The rest of each section stays what the recipe says.
    assert read.fit.batch_size == default.fit.batch_size
    assert read.model.likelihood == default.model.likelihood
    assert read.fit.model_copy(update={"epochs": default.fit.epochs}) == default.fit


def test_a_source_s_options_are_corrected_too(tmp_path: Path) -> None:
    read = Recipe.read(recipe(tmp_path), ["--dataset.drop", '["id"]', "--data", "t.csv"])
    assert read.record()["dataset"]["drop"] == ["id"]
    assert read.data == Path("t.csv")


def test_epochs_asked_for_take_the_place_of_a_recipe_s_steps() -> None:
    assert Recipe.read("table", []).fit.steps
    asked = Recipe.read("table", ["--fit.epochs", "3"]).fit
    assert (asked.epochs, asked.steps) == (3, None)
    both = Recipe.read("table", ["--fit.epochs=3", "--fit.steps=50"]).fit
    assert (both.epochs, both.steps) == (3, 50)


def test_where_files_go_decides_nothing(tmp_path: Path) -> None:
    plain = Recipe.read("digits", [])
    moved = Recipe.read("digits", ["--out", "elsewhere", "--runs", "there", "--resume"])
    assert moved.resume
    assert moved.out == Path("elsewhere")
    assert plain.record() == moved.record()


@pytest.mark.parametrize(
    ("arguments", "field", "reason"),
    [
        (["--fit.epochs", "0"], "fit.epochs", "greater than or equal to 1"),
        (["--fit.epochs", "many"], "fit.epochs", "valid integer"),
        (["--fit.learning_rate", "-1"], "fit.learning_rate", "greater than 0"),
        (["--model.likelihood", "gausian"], "model", "'gausian' is none of gaussian, "),
        (["--model.architecture", "rnn"], "model", "'rnn' is none of gated_mlp, "),
        (["--model.prior", "flat"], "model", "'flat' is none of standard_normal, mixture"),
        (["--model.widths", "[]"], "model.widths", "at least 1"),
        (["--model.latent_size", "0"], "model.latent_size", "greater than or equal to 1"),
        (["--bound.num_draws", str(MAX_DRAWS + 1)], "bound.num_draws", "less than or equal to"),
        (["--name", "No Spaces"], "name", "pattern"),
        (["--split.test", "0.9"], "split", "must add up to less than 1"),
        (["--fit.mixed_precision", "fp8"], "fit.mixed_precision", "'no', 'tf32', 'fp16' or 'bf16'"),
    ],
)
def test_wrong_values_name_their_field(arguments: list[str], field: str, reason: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.read("digits", arguments)
    assert f"{field}: " in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("argument", ["--fit.epoch", "--colour", "--model.depth"])
def test_unknown_flags_are_refused(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((RecipeError, SystemExit)) as caught:
        Recipe.read("digits", [argument, "3"])
    assert argument.lstrip("-") in str(caught.value) + capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (MINIMAL + "colour: red\n", "colour: Extra inputs"),
        (MINIMAL + "fit: {epoch: 3}\n", "fit.epoch: Extra inputs"),
        (MINIMAL.replace("mixed", "mixd"), "'mixd' is none of"),
        (MINIMAL.replace("kind: table", "kind: spreadsheet"), "dataset: "),
        (MINIMAL.replace("kind: table", "kind: table, dropp: [a]"), "dropp: Extra inputs"),
        (MINIMAL.replace("name: mine", "name: My rows"), "name: String should match pattern"),
        ("- a\n- b\n", "must be a mapping"),
        ("", "must be a mapping"),
        ("name: [unclosed\n", "cannot be read"),
        ("name: !!python/object/apply:os.getcwd []\n", "cannot be read"),
        ("name: 2020-02-30\n", "cannot be read: day is out of range"),
    ],
)
def test_broken_files_are_refused_by_field(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"mine\.yaml") as caught:
        Recipe.read(recipe(tmp_path, text), [])
    assert reason in str(caught.value)


def test_unknown_recipes_are_answered_with_the_known(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'nothing'; there are .*digits"):
        Recipe.read("nothing", [])
    with pytest.raises(RecipeError, match="no recipe"):
        Recipe.read(str(tmp_path / "absent.yaml"), [])
    tmp_path.joinpath("folder.yaml").mkdir()
    with pytest.raises(RecipeError, match="cannot be read"):
        Recipe.read(str(tmp_path / "folder.yaml"), [])
    tmp_path.joinpath("endless.yaml").symlink_to("/dev/zero")
    with pytest.raises(RecipeError, match=r"cannot be read: .*at most 4,194,304 bytes are read"):
        Recipe.read(str(tmp_path / "endless.yaml"), [])


def test_the_environment_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recipe(tmp_path)
    plain = Recipe.read(path, [])
    for variable, value in {
        "DATA": "/secret",
        "NAME": "leak",
        "FIT": '{"epochs": 1}',
        "FIT__EPOCHS": "1",
        "OUT": "/x",
        "RESUME": "1",
    }.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath(".env").write_text("DATA=/secret\n")
    assert Recipe.read(path, []) == plain
    assert plain.data is None


def test_recipes_are_immutable() -> None:
    read = Recipe.read("digits", [])
    with pytest.raises(ValidationError, match="frozen"):
        read.fit.epochs = 3  # type: ignore[misc]
