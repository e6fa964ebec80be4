"""`lowerbound train` and `lowerbound export`; both import PyTorch, which takes seconds, when they need it."""

import gc
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict
from rich.console import Console

from service.cli import CommandOptions, parse
from service.errors import LowerboundError, printable
from service.storage import Location
from training.first_look import look, takes_long
from training.recipe_files import RecipeError, names

if TYPE_CHECKING:
    from training.recipes import Recipe

TRAIN_HELP = f"""usage: lowerbound train RECIPE [options]

Train a variational autoencoder on a table or on pictures, and write a bundle that `lowerbound serve` answers from.

Examples:
  lowerbound train digits                                    the data comes with the package
  lowerbound train table --data rows.csv                     CSV or Parquet, read without preparation
  lowerbound train table --data rows.csv --fit.epochs 50     any field of a recipe is an option
  lowerbound train table --data rows.csv --resume            go on after an interruption

Recipes: {", ".join(names())}, or a .yaml file.
`lowerbound train RECIPE --help` lists the fields of a recipe with their defaults."""


class Export(CommandOptions):
    """Write the bundle of a run from its best epoch, without training it to the end.

    Examples:
      lowerbound export runs/rows/3                      stopped early, or failed after the training
      lowerbound export runs/rows/3 --out s3://bucket/models

    The data must be the same that the run was trained on: its rows are divided again in the same way.
    """

    model_config = SettingsConfigDict(cli_prog_name="lowerbound export")

    run: CliPositionalArg[Path] = Field(description="The run's folder, <runs>/<name>/<number>.")
    data: Location | None = Field(default=None, description="The run's data, if it was moved.")
    out: Location = Field(default=Path("models"), description="The repository that the bundle goes to, or its URL.")


def train(arguments: list[str]) -> None:
    """Look at the data, train, and print the bundle's place.

    Raises:
        LowerboundError: The recipe or the data cannot be used, or a graph does not compute what PyTorch computes.
        OSError: The run or the bundle cannot be written.
    """
    if not arguments:
        raise RecipeError(f"train takes a recipe: {', '.join(names())}, or a .yaml file")
    if arguments[0] in {"-h", "--help"}:
        print(TRAIN_HELP)
        return
    _refuse_unwritable(arguments)
    recipe, *options = arguments
    resume = shlex.join(["lowerbound", "train", *(a for a in arguments if a != "--resume"), "--resume"])
    # Of several processes only the first one speaks.
    console = Console(stderr=True, soft_wrap=True, quiet=os.environ.get("RANK", "0") != "0")
    try:
        # Help ends here, and wrong fields are named before much is read.
        first = {"-h", "--help"} & set(options) or takes_long(recipe, options)
        asked = _read(recipe, options) if first else None
        if (dataset := look(recipe, options, console)) is None:
            return
        asked = asked or _read(recipe, options)
        from training.screening import screen  # noqa: PLC0415 - torch
        from training.train import train  # noqa: PLC0415 - torch

        if asked.screen:
            screen(asked, dataset, asked.screen, console)
        elif place := train(asked, dataset, console):
            print(place)
    except (LowerboundError, OSError) as error:
        if hasattr(error, "__notes__"):
            error.add_note(f"Go on with: {resume}")
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"every finished epoch is kept. Go on with: {resume}") from None


def _refuse_unwritable(arguments: list[str]) -> None:
    """Refuse names of files that are not UTF-8 before the training: the bundle says where its rows come from.

    Raises:
        RecipeError: There is one.
    """
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            why = "not UTF-8, in which a bundle names its data; rename the file or the folder"
            raise RecipeError(f"{printable(argument)}: {why}") from error


def _read(recipe: str, options: list[str]) -> "Recipe":
    gc.disable()  # Imports leave hardly any garbage, and searches of all that is imported take half a second.
    from training import screening, train  # noqa: F401, PLC0415 - torch
    from training.recipes import Recipe  # noqa: PLC0415 - torch

    gc.freeze()  # Nor is any of it ever garbage.
    gc.enable()
    return Recipe.read(recipe, options)


def export(arguments: list[str]) -> None:
    """Write the bundle of a run, and print its place.

    Raises:
        ValidationError: The arguments are wrong.
        LowerboundError: It is no run with a finished epoch, or the data is not the run's.
        OSError: The bundle cannot be written.
    """
    options = parse(Export, arguments)
    from training.train import export_run  # noqa: PLC0415 - torch

    print(export_run(options.run, options.data, options.out, Console(file=sys.stderr, soft_wrap=True)))
