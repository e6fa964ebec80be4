"""From data to a bundle, and from a bundle to what it is worth, or to a signed one.

python -m training RECIPE [--data PATH] [--out FOLDER] [--resume] [--any.field value]
python -m training evaluate BUNDLE [--data PATH] [--test PATH] [--label NAME]
python -m training sign BUNDLE --key KEY.pem
"""

import os
import shlex
import sys
from importlib import import_module
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from service.errors import LowerboundError
from training.datasets.table import TableError
from training.first_look import look
from training.recipe_files import names

COMMANDS = {"evaluate": "training.evaluate", "sign": "training.sign"}
"""The modules of commands that are no recipes."""

console = Console(stderr=True, soft_wrap=True, quiet=os.environ.get("RANK", "0") != "0")
"""The first process alone speaks."""


def main(arguments: list[str]) -> int:
    """Do what the arguments say; returns the exit status."""
    if not arguments or arguments[0].startswith("-"):
        console.print(f"{__doc__}\nrecipes: {', '.join(names())}, or a .yaml file; RECIPE --help lists the fields")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    kind, *rest = arguments
    try:
        if command := COMMANDS.get(kind):
            import_module(command).main(rest)
        elif folder := _train(kind, rest):
            print(folder)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        return _fail("; ".join(problems))
    except TableError as error:
        return _fail(f"{len(error.problems)} problems with the data" if error.remedies else str(error))
    except (LowerboundError, OSError) as error:
        notes = [f"{note}. Go on with: {_resume(arguments)}" for note in getattr(error, "__notes__", ())]
        return _fail("\n".join([str(error), *notes]))
    except KeyboardInterrupt:
        kept = "every finished epoch is kept. Go on with: " + _resume(arguments)
        kept = "nothing is written" if kind in COMMANDS else kept
        console.print(f"interrupted; {kept}", markup=False)
        return 130
    return 0


def _resume(arguments: list[str]) -> str:
    return shlex.join(["python", "-m", "training", *(a for a in arguments if a != "--resume"), "--resume"])


def _train(recipe: str, arguments: list[str]) -> Path | str | None:
    """Look at the data, then train; torch takes seconds to import, and what is wrong with data is told before that."""
    dataset = None
    if not {"-h", "--help"} & set(arguments) and (dataset := look(recipe, arguments, console)) is None:
        return None
    from training.recipes import Recipe  # noqa: PLC0415 - torch
    from training.train import train  # noqa: PLC0415 - torch

    asked = Recipe.read(recipe, arguments)
    return train(asked, dataset, console) if dataset else None


def _fail(problem: str) -> int:
    console.print(f"error: {problem}", style="red", markup=False)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
