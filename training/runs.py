"""Runs: a numbered folder for each, so that nothing is overwritten and an interrupted one can go on."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from training.fit.disk import replace_file
from training.recipe_files import RecipeError
from training.recipes import Recipe

RECORD = "run.json"


def open_run(recipe: Recipe, fingerprint: str) -> Path:
    """The folder `<runs>/<name>/<number>` of a new run, or of the latest one where the recipe says to resume.

    Raises:
        OSError: The folder cannot be written.
        RecipeError: There is no run to resume, or it was of another recipe or other data; names the fields that differ.
    """
    parent = recipe.runs / recipe.name
    folders = sorted((path for path in parent.glob("*") if path.name.isdecimal()), key=lambda path: int(path.name))
    recorded = [path for path in folders if (path / RECORD).exists()]
    record: dict[str, Any] = {"recipe": recipe.record(), "data_sha256": fingerprint}
    if not recipe.resume:
        folder = parent / str(int(folders[-1].name) + 1 if folders else 1)
        folder.mkdir(parents=True)
        replace_file(folder / RECORD, lambda path: path.write_text(json.dumps(record, indent=2) + "\n"))
        return folder
    if not recorded:
        raise RecipeError(f"{parent}: no run to resume")
    folder = recorded[-1]
    runs = json.loads((folder / RECORD).read_text()), record
    earlier, now = (_flatten(run["recipe"]) | {"data_sha256": run["data_sha256"]} for run in runs)
    if differing := sorted(key for key in earlier.keys() | now.keys() if earlier.get(key) != now.get(key)):
        raise RecipeError(f"{folder} was run with another {', '.join(differing)}; give the same, or leave out --resume")
    return folder


def read_run(folder: Path) -> tuple[Recipe, str]:
    """The recipe of a run, and the digest of its data.

    Raises:
        RecipeError: It is no folder of a run, or of a run by another version of the trainer.
    """
    try:
        record = json.loads((folder / RECORD).read_text())
        return Recipe.model_validate(record["recipe"]), record["data_sha256"]
    except (OSError, ValueError, KeyError, ValidationError) as error:
        raise RecipeError(f"{folder}: not the folder of a run, <runs>/<name>/<number>: {error}") from error


def _flatten(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Nested sections as dotted fields, as the command line names them."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
