"""Recipes: everything that decides a run, typed, in one YAML file, and open to correction on the command line."""

import re
import unicodedata
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import CliImplicitFlag, SettingsConfigDict

from service.bundle import Array, ModelName
from service.cli import CommandLine, parse, problems
from service.scoring import MAX_DRAWS, noise
from service.storage import Location
from training.datasets import AnySource, SplitRecipe
from training.fit import FitRecipe
from training.model import ModelRecipe
from training.recipe_files import RecipeError, read_values


class BoundRecipe(BaseModel):
    """The draws of the held-out bound, and the service's default for this bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_draws: int = Field(default=16, ge=1, le=MAX_DRAWS, description="K, draws per row.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the base samples.")
    refine: int = Field(default=0, ge=0, description="Steps of refinement of the calibrated regret; 0: no regret.")
    level: float = Field(
        default=0.01, gt=0, lt=1, description="The smallest p-value that the calibration rows must allow."
    )

    def base_samples(self, latent_size: int) -> Array:
        """The noise of the bound, (K, L)."""
        return noise.base_samples(self.seed, self.num_draws, latent_size)


class Recipe(CommandLine):
    """Train a variational autoencoder and write a bundle that the service can answer from."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,
        cli_prog_name="lowerbound train RECIPE",
        cli_hide_none_type=True,
    )

    name: ModelName = Field(default="", description="Name of the model, its folder in the repository; else the data's.")
    data: Location | None = Field(default=None, description="The file or folder to train on, or its URL.")
    dataset: AnySource = Field(description="How to read the data.")
    split: SplitRecipe = SplitRecipe()
    model: ModelRecipe
    fit: FitRecipe = FitRecipe()
    bound: BoundRecipe = BoundRecipe()
    out: Location = Field(default=Path("models"), description="The repository for the bundle: a folder or a URL.")
    runs: Path = Field(default=Path("runs"), description="Folder for the checkpoints and metrics of runs.")
    screen: Path | None = Field(
        default=None,
        description="A CSV file to write instead of a bundle: the rows, strangest first, by models of others.",
    )
    resume: CliImplicitFlag[bool] = Field(default=False, description="Continue the latest run of this name.")

    @model_validator(mode="before")
    @classmethod
    def _name_after_data(cls, values: dict[str, Any]) -> dict[str, Any]:
        return values if values.get("name") else values | {"name": model_name(values.get("data") or "")}

    @classmethod
    def read(cls, name: str, arguments: list[str]) -> Self:
        """A named recipe, or one from a YAML file, corrected by command-line arguments.

        Raises:
            RecipeError: There is no such recipe, it is no YAML mapping, or a field is wrong; names the field.
        """
        file, values = read_values(name)
        given = {argument.partition("=")[0] for argument in arguments}
        if "--fit.epochs" in given and "--fit.steps" not in given and isinstance(values.get("fit"), dict):
            values["fit"].pop("steps", None)  # A recipe's steps would otherwise win over the epochs asked for.
        try:
            return parse(cls, arguments, **values)
        except ValidationError as error:
            raise RecipeError(f"{file}: {problems(error)}") from error

    def record(self) -> dict[str, Any]:
        """The fields that decide the model, as JSON: all but `out`, `runs`, `screen` and `resume`."""
        return self.model_dump(mode="json", exclude={"out", "runs", "screen", "resume"})


def model_name(place: Path | str) -> str:
    """The name of a model of this data: `Card payments.csv.gz` gives `card-payments`."""
    last = str(place).rstrip("/").rpartition("/")[2].lower()
    stem = re.sub(r"(\.[a-z]\w*)+$", "", last)
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9_]+", "-", plain).strip("-_")[:63].rstrip("-_") or "model"
