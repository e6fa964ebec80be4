"""The YAML files of recipes, as they are written; what the fields mean is not known here, nor is torch."""

from pathlib import Path
from typing import Any

import yaml

from service.errors import LowerboundError
from service.small_files import read_small_file

RECIPES = Path(__file__).parent / "recipes"


class RecipeError(LowerboundError):
    """A recipe that cannot be read, or that does not fit the run it should resume."""


def read_values(name: str) -> tuple[str, dict[str, Any]]:
    """Read the file of a named recipe, or a YAML file; gives its name and its fields.

    Raises:
        RecipeError: There is no such recipe, or it is no YAML mapping.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    try:
        values = yaml.safe_load(read_small_file(path))
    except FileNotFoundError as error:
        raise RecipeError(f"no recipe {name!r}; there are {', '.join(names())}, or give a .yaml file") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: must be a mapping of fields")
    return path.name, values


def names() -> list[str]:
    """The named recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))
