"""From rows to a bundle."""

from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from rich.console import Console
from torch import Tensor

from service.errors import LowerboundError
from service.storage import Location
from training.datasets import Dataset, Splits, download, split
from training.fit import sample, training_rows
from training.fit.exemplars import set_exemplars
from training.fit.loop import fit, load_best
from training.model import VAE
from training.model.build import build
from training.publish import open_repository, publish, rehearse
from training.recipe_files import RecipeError
from training.recipes import Recipe
from training.runs import open_run, read_run

WORTH_A_NOTE = 0.01
"""Share of repeats among the calibration rows from which the trainer names it."""


def train(recipe: Recipe, dataset: Dataset, console: Console) -> Path | str | None:
    """Everything from the rows to the written bundle, top to bottom.

    Among several processes (`accelerate launch`, `torchrun`) all train, and the first one keeps the run's folder,
    speaks, and writes the bundle; the others return None.
    """
    # Processes know of one another on the CPU only if the first to ask says that it is the CPU.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU", default=not torch.accelerator.is_available())
    first = PartialState(cpu=cpu).is_main_process
    console.quiet = not first
    repository = open_repository(recipe.out)
    splits = _divide(recipe, dataset, console)
    if (smallest := 1 / (len(splits.calibration) + 1)) > recipe.bound.level:
        console.print(
            f"warning: with {len(splits.calibration):,} calibration rows no p-value is below {smallest:.2g}, and "
            f"bound.level asks for {recipe.bound.level:.2g}: raise split.calibration, or bring more data",
            style="yellow",
            markup=False,
        )

    vae = _untrained(recipe, dataset, splits)
    base_samples, held_out = _held_out(recipe, dataset, splits, vae)
    # A run that cannot be resumed is refused before the export; a new one has its folder once the export has succeeded.
    run = open_run(recipe, dataset.fingerprint) if first and recipe.resume else None
    if first:
        # Steps that can fail after the training are tried before it.
        repository.try_to_write(recipe.name)
        console.print("exporting the untrained model, to find what would fail after the training")
        rehearse(vae, dataset, splits, recipe)
        run = run or open_run(recipe, dataset.fingerprint)
    (run,) = broadcast_object_list([run])
    console.print(f"run: {run}", markup=False)
    history = fit(vae, training_rows(dataset, splits.train), held_out, base_samples, recipe.fit, run)
    if not first:
        return None
    try:
        return publish(vae, dataset, splits, recipe, history, repository)
    except (LowerboundError, OSError) as error:
        error.add_note(f"The training is finished, and kept in {run}")
        raise


def export_run(run: Path, data: Location | None, out: Location, console: Console) -> Path | str:
    """Write the bundle of a run's best epoch, whose data may have been moved, and return its place.

    Raises:
        RecipeError: It is no run with a finished epoch, or the data is not the run's.
        FileError: The data cannot be read.
        ExportError: A graph does not compute what PyTorch computes.
        BundleError: Another process has written the same version meanwhile.
        OSError: The bundle cannot be written.
        StorageError: `out` is a URL that cannot be reached.
    """
    repository = open_repository(out)
    recipe, fingerprint = read_run(run)
    repository.try_to_write(recipe.name)
    place = data or recipe.data
    with download(place) as path:
        dataset = recipe.dataset.load(path)
    if dataset.fingerprint != fingerprint:
        raise RecipeError(f"{place}: not the rows that {run} was trained on; give these with --data")
    splits = _divide(recipe, dataset, console)
    vae = _untrained(recipe, dataset, splits)
    history = load_best(vae, run)
    if not history:
        raise RecipeError(f"{run}: no epoch was finished; train with --resume")
    base_samples, held_out = _held_out(recipe, dataset, splits, vae)
    set_exemplars(vae, training_rows(dataset, splits.train), held_out, base_samples, recipe.fit)
    return publish(vae, dataset, splits, recipe, history, repository)


def _divide(recipe: Recipe, dataset: Dataset, console: Console) -> Splits:
    splits = split(dataset, recipe.split)
    console.print(", ".join(f"{name}: {part.rows:,} rows" for name, part in splits.record().items()))
    if splits.repeats >= WORTH_A_NOTE:
        console.print(
            f"note: {splits.repeats:.1%} of the calibration rows repeat training or validation rows. P-values assume "
            "that as many new rows do; if not, remove repeated rows from the data first",
            style="yellow",
            markup=False,
        )
    return splits


def _untrained(recipe: Recipe, dataset: Dataset, splits: Splits) -> VAE:
    return build(recipe.model, dataset.input, sample(dataset, splits.train, recipe.fit.seed), recipe.fit.seed)


def _held_out(recipe: Recipe, dataset: Dataset, splits: Splits, vae: VAE) -> tuple[Tensor, Tensor]:
    """Noise of the held-out bound, (K, L), and the rows that choose the best epoch, (n, *shape)."""
    base_samples = recipe.bound.base_samples(vae.prior.latent_size)
    return torch.from_numpy(base_samples), torch.from_numpy(dataset.rows[splits.validation])
