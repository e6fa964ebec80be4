"""Recipes: everything that decides a run, typed, in one YAML file, and open to correction on the command line."""

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, CliApp, CliImplicitFlag, PydanticBaseSettingsSource, SettingsConfigDict

from service.errors import LowerboundError
from service.manifest import ModelName
from service.noise import MAX_DRAWS, MAX_LATENT_SIZE
from service.storage import Location
from training.architectures import ARCHITECTURES
from training.datasets import AnySource, SplitRecipe
from training.likelihoods import LIKELIHOODS
from training.priors import PRIORS

RECIPES = Path(__file__).parent / "recipes"


class RecipeError(LowerboundError):
    """A recipe that cannot be read, or that does not fit the run it should resume."""


class Section(BaseModel):
    """Base of a recipe's sections: immutable, and closed to unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelRecipe(Section):
    """What is trained."""

    architecture: str = Field(default="gated_mlp", description=", ".join(ARCHITECTURES) + ".")
    widths: tuple[int, ...] = Field(default=(256, 256), min_length=1, description="Units (or channels) of each layer.")
    latent_size: int | None = Field(
        default=16,
        ge=1,
        le=MAX_LATENT_SIZE,
        description="L; null: one less than the features, but 2 at the least and 16 at the most.",
    )
    likelihood: str = Field(description="p(x|z): " + ", ".join(LIKELIHOODS) + ".")
    prior: str = Field(default="standard_normal", description="p(z): " + ", ".join(PRIORS) + ".")
    components: int = Field(default=100, ge=1, description="Of a mixture prior.")

    @model_validator(mode="after")
    def _registered(self) -> Self:
        for value, registry in (
            (self.architecture, ARCHITECTURES.keys()),
            (self.likelihood, LIKELIHOODS.keys()),
            (self.prior, PRIORS.keys()),
        ):
            if value not in registry:
                raise ValueError(f"{value!r} is none of {', '.join(registry)}")
        return self


class FitRecipe(Section):
    """How it is trained."""

    epochs: int = Field(default=200, ge=1, description="At most so many passes over the training rows.")
    steps: int | None = Field(
        default=None,
        ge=1,
        description="Train for so many steps instead of epochs, however few or many the rows.",
    )
    patience: int = Field(default=20, ge=1, description="Stop after so many epochs without a better held-out ELBO.")
    batch_size: int = Field(default=128, ge=1, description="Rows per step, over all processes.")
    learning_rate: float = Field(default=1e-3, gt=0, description="Of Adam.")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="Of the learning rate; a cosine falls to zero over all epochs."
    )
    objective: Literal["elbo", "importance_weighted"] = Field(default="elbo", description="The bound that is raised.")
    num_draws: int = Field(default=1, ge=1, description="Draws per row and step.")
    warmup_epochs: int = Field(default=0, ge=0, description="The KL's weight rises from 0 to beta over these.")
    beta: float = Field(default=1.0, gt=0, description="The KL's final weight; the ELBO's own is 1.")
    free_bits: float = Field(default=0.0, ge=0, description="Nats of KL per latent that cost nothing.")
    clip: float = Field(default=100.0, gt=0, description="Largest norm of a step's gradient, per row.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Of the weights, the order of rows and the noise.")
    mixed_precision: Literal["no", "tf32", "fp16", "bf16"] = Field(
        default="no", description="Of the networks; tf32 is that of matrix products on a GPU alone."
    )

    @model_validator(mode="after")
    def _one_objective(self) -> Self:
        if self.objective == "importance_weighted" and (self.num_draws < 2 or self.beta != 1 or self.free_bits):
            raise ValueError("importance_weighted takes num_draws of 2 or more, beta of 1 and no free bits")
        return self


class BoundRecipe(Section):
    """The draws of the held-out bound, and the service's default for this bundle."""

    num_draws: int = Field(default=16, ge=1, le=MAX_DRAWS, description="K.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Names the noise bank.")
    refine: int = Field(default=0, ge=0, description="Steps of refinement of the calibrated regret; 0 for none.")
    level: float = Field(default=0.01, gt=0, lt=1, description="The smallest p-value that calibration must allow.")


class Recipe(BaseSettings):
    """Train a variational autoencoder and write a bundle that the service can answer from."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,
        cli_prog_name="python -m training RECIPE",
        cli_hide_none_type=True,
    )

    name: ModelName = Field(description="Of the model: its folder in the repository.")
    data: Location | None = Field(default=None, description="The file or folder to learn from, or its URL.")
    dataset: AnySource = Field(description="How to read it.")
    split: SplitRecipe = SplitRecipe()
    model: ModelRecipe
    fit: FitRecipe = FitRecipe()
    bound: BoundRecipe = BoundRecipe()
    out: Location = Field(default=Path("models"), description="The repository that the bundle goes to, or its URL.")
    runs: Path = Field(default=Path("runs"), description="Where runs keep checkpoints and metrics.")
    resume: CliImplicitFlag[bool] = Field(default=False, description="Go on with the latest run of this name.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The YAML file and the command line only: an environment variable named DATA must not pick the data."""
        return (init_settings,)

    @classmethod
    def read(cls, name: str, arguments: list[str]) -> Self:
        """A named recipe, or one from a YAML file, corrected by command-line arguments.

        Raises:
            RecipeError: There is no such recipe, it is no YAML mapping, or a field is wrong; names the field.
        """
        path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
        try:
            values = yaml.safe_load(path.read_text())
        except FileNotFoundError as error:
            raise RecipeError(f"no recipe {name!r}; there are {', '.join(names())}, or give a .yaml file") from error
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RecipeError(f"{path}: cannot be read: {error}") from error
        if not isinstance(values, dict):
            raise RecipeError(f"{path}: must be a mapping of fields")
        try:
            return CliApp.run(cls, cli_args=arguments, **values)
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise RecipeError(f"{path.name}: " + "; ".join(problems)) from error

    def record(self) -> dict[str, Any]:
        """What decides the model, as JSON: everything but where files go."""
        return self.model_dump(mode="json", exclude={"out", "runs", "resume"})


def names() -> list[str]:
    """The named recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))
