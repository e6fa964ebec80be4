"""From data to a bundle, and from a bundle to what it is worth, or to a signed one.

python -m training RECIPE [--data PATH] [--out FOLDER] [--resume] [--any.field value]
python -m training evaluate BUNDLE [--data PATH] [--test PATH] [--label NAME]
python -m training sign BUNDLE --key KEY.pem
"""

import shlex
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from pydantic import ValidationError
from rich.console import Console

from service.errors import LowerboundError
from service.scoring import noise
from training import evaluate, sign
from training.datasets import download, split
from training.datasets.table import describe
from training.fit import sample, training_rows
from training.fit.loop import fit
from training.model.build import build
from training.publish import open_repository, publish, rehearse
from training.recipes import Recipe, names
from training.runs import open_run

COMMANDS = {"evaluate": evaluate.main, "sign": sign.main}
"""What is no recipe."""

console = Console(stderr=True, soft_wrap=True)


def main(arguments: list[str]) -> int:
    """Do what the arguments say; returns the exit status."""
    if not arguments or arguments[0].startswith("-"):
        console.print(f"{__doc__}\nrecipes: {', '.join(names())}, or a .yaml file; RECIPE --help lists the fields")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    kind, *rest = arguments
    try:
        if command := COMMANDS.get(kind):
            command(rest)
        elif folder := train(Recipe.read(kind, rest)):
            print(folder)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        return _fail("; ".join(problems))
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


def _fail(problem: str) -> int:
    console.print(f"error: {problem}", style="red", markup=False)
    return 1


def train(recipe: Recipe) -> Path | str | None:
    """Everything from the recipe to the written bundle, top to bottom.

    Among several processes (`accelerate launch`, `torchrun`) all train, and the first one keeps the run's folder,
    speaks, and writes the bundle; the others return None.
    """
    # Processes know of one another on the CPU only if the first to ask says that it is the CPU.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU", default=not torch.accelerator.is_available())
    first = PartialState(cpu=cpu).is_main_process
    console.quiet = not first
    repository = open_repository(recipe.out)
    with download(recipe.data) as path:
        dataset = recipe.dataset.load(path)
    splits = split(dataset, recipe.split)
    console.print(describe(dataset) if dataset.input.kind == "tabular" else f"images of shape {dataset.input.shape}")
    for note in dataset.notes:
        console.print(note, markup=False)
    console.print(", ".join(f"{name}: {part.rows:,} rows" for name, part in splits.record().items()))

    if (smallest := 1 / (len(splits.calibration) + 1)) > recipe.bound.level:
        console.print(
            f"warning: with {len(splits.calibration):,} calibration rows no p-value is below {smallest:.2g}, and "
            f"bound.level asks for {recipe.bound.level:.2g}: raise split.calibration, or bring more data",
            style="yellow",
            markup=False,
        )

    vae = build(recipe.model, dataset.input, sample(dataset, splits.train, recipe.fit.seed), recipe.fit.seed)
    base_samples = torch.from_numpy(
        noise.base_samples(recipe.bound.seed, recipe.bound.num_draws, vae.prior.latent_size)
    )
    held_out = torch.from_numpy(dataset.rows[splits.validation])
    if first:
        # What can fail after the training is tried before it.
        repository.try_to_write(recipe.name)
        with console.status("exporting the untrained model"):
            rehearse(vae, dataset, splits, recipe)
    (run,) = broadcast_object_list([open_run(recipe, dataset.fingerprint) if first else None])
    console.print(f"run: {run}", markup=False)
    history = fit(vae, training_rows(dataset, splits.train), held_out, base_samples, recipe.fit, run)
    if not first:
        return None
    try:
        return publish(vae, dataset, splits, recipe, history, repository)
    except (LowerboundError, OSError) as error:
        error.add_note(f"The training is finished, and kept in {run}")
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
