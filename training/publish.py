"""The last stage of a run: export, verify, calibrate, measure, and write the bundle.

Golden rows, calibration and figures come from the service's own engine and the exported graphs, never from torch.
"""

import copy
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from service.bundle import (
    CALIBRATION,
    FORMAT_VERSION,
    GOLDEN,
    MISSING_CELLS,
    Array,
    Calibration,
    Graph,
    Manifest,
    Provenance,
    TabularInput,
    describe_files,
    write_arrays,
)
from service.engine import OnnxEngine
from service.scoring import scores
from service.storage import LocalStore
from service.storage.remote import RemoteStore
from training.card import CardInputs, write_card
from training.datasets import Dataset, Splits
from training.evaluation.bounds import bounds, held_out_metrics, score_columns
from training.evaluation.missing_cells import missing_cell_scores
from training.evaluation.score_selection import choose, sensitivities
from training.export.graphs import graph_modules
from training.export.onnx import TOLERANCE, export_graphs, graph_inputs, verify
from training.fit import Epoch, Progress, sample
from training.model import VAE
from training.model.priors import Mixture
from training.model.ranges import with_ranges
from training.recipes import BoundRecipe, Recipe

GOLDEN_ROWS = 4
VERIFIED_ROWS = 64
VERIFIED_VALUES = 2**21
"""Values of all draws of all rows that are verified at once: a refinement of pictures takes 450 bytes for each.

The service, too, computes no more of large pictures as golden rows: its trial of a bundle has two gigabytes.
"""
_PACKAGES = ("torch", "onnx", "onnxscript", "numpy", "scipy", "scikit-learn", "pyarrow", "pillow")


def open_repository(place: Path | str) -> LocalStore | RemoteStore:
    """Where bundles go.

    Raises:
        ExtraError: It is a URL, whose driver is not installed.
        StorageError: It is a URL of no known file system.
    """
    return LocalStore(place) if isinstance(place, Path) else RemoteStore(place)


def rehearse(vae: VAE, dataset: Dataset, splits: Splits, recipe: Recipe) -> None:
    """Export and verify the untrained model, so that what fails at export fails before the training.

    Raises:
        ExportError: A graph does not compute what torch computes.
    """
    if recipe.fit.exemplars:
        vae = copy.deepcopy(vae)
        vae.prior = Mixture(vae.prior.latent_size, min(recipe.fit.exemplars, len(splits.train)))
    _export(vae.eval(), dataset, splits, recipe.bound)


def _export(
    vae: VAE, dataset: Dataset, splits: Splits, bound: BoundRecipe, *, own: bool = True
) -> tuple[dict[str, Graph], dict[str, bytes], OnnxEngine, dict[str, float]]:
    """The graphs of a VAE, the files and the engine that compute them, and the largest differences from torch."""
    modules = graph_modules(vae, dataset.input, dataset.rows[splits.validation])
    graphs, files = export_graphs(modules, dataset.input, vae.prior.latent_size, own=own)
    engine = OnnxEngine(graphs, files, "cpu")
    base_samples = bound.base_samples(vae.prior.latent_size)
    rows, draws = verified(dataset.rows[0].size, bound.num_draws)
    errors = verify(modules, dataset.input, engine, dataset.rows[splits.test[:rows]], base_samples[:draws])
    return graphs, files, engine, errors


def verified(values: int, num_draws: int) -> tuple[int, int]:
    """How many rows are verified, and draws of each, if a row has so many values, and a bound so many draws."""
    fitting = VERIFIED_VALUES // values
    rows = min(VERIFIED_ROWS, max(2, fitting // num_draws))
    return rows, min(num_draws, max(3, fitting // rows))


def publish(
    vae: VAE,
    dataset: Dataset,
    splits: Splits,
    recipe: Recipe,
    history: list[Epoch],
    repository: LocalStore | RemoteStore,
) -> Path | str:
    """Write a trained VAE as the next version of its bundle, and return the bundle's folder, or its URL.

    Raises:
        ExportError: A graph does not compute what torch computes; nothing is written.
        BundleError: Someone else has written that version meanwhile.
        StorageError: It is a URL that cannot be reached now.
    """
    best = Progress(recipe.fit, history).best
    assert best is not None  # noqa: S101 - there is an epoch
    training = Training(history, best)
    prior = "mixture" if recipe.fit.exemplars else recipe.model.prior
    origin = Origin(recipe.name, recipe.model.likelihood, prior, recipe.bound, recipe.record())
    return write_bundle(vae, dataset, splits, origin, training, repository)


@dataclass(frozen=True)
class Origin:
    """What a manifest says of a model.

    Attributes:
        name: Of the bundle.
        likelihood: Name of p(x|z).
        prior: Name of p(z).
        bound: Draws, seed and refinement of the calibrated scores.
        record: How the model was made, in JSON's types.
    """

    name: str
    likelihood: str
    prior: str
    bound: BoundRecipe
    record: dict[str, Any]


@dataclass(frozen=True)
class Training:
    """The epochs of a training, at least one, and the one whose weights the model has."""

    history: list[Epoch]
    best: Epoch

    def metrics(self) -> dict[str, float]:
        """The figures for the manifest."""
        return {
            "active_units": self.best.active_units,
            "mutual_information": self.best.mutual_information,
            "marginal_kl": self.best.marginal_kl,
            "epochs": len(self.history),
            "seconds_per_epoch": float(np.median([epoch.seconds for epoch in self.history])),
        }


def write_bundle(
    vae: VAE,
    dataset: Dataset,
    splits: Splits,
    origin: Origin,
    training: Training | None,
    repository: LocalStore | RemoteStore,
) -> Path | str:
    """Export, verify, calibrate and measure a VAE, trained here or elsewhere, and write its bundle.

    Raises:
        ExportError: See `publish`.
        BundleError: See `publish`.
        StorageError: See `publish`.
    """
    say = _stages()
    say("exporting the graphs")
    vae = vae.cpu().eval()
    validation = dataset.rows[splits.validation]
    graphs, files, engine, errors = _export(vae, dataset, splits, origin.bound, own=training is not None)
    base_samples = origin.bound.base_samples(vae.prior.latent_size)
    test = dataset.rows[splits.test]

    def columns(x: Array, refine: int = 0) -> dict[str, Array]:
        return score_columns(engine, graphs, x, base_samples, refine)

    def score(x: Array) -> dict[str, Array]:
        return scores(columns(x))

    calibration_rows = dataset.rows[splits.calibration]
    say(f"calibrating on {len(calibration_rows):,} rows")
    held_out_scores = scores(columns(calibration_rows, origin.bound.refine))
    say(f"choosing the default score on {len(validation):,} rows")
    sensitivity = sensitivities(score, dataset.input, validation, origin.bound.seed)
    say(f"measuring {len(test):,} test rows")
    held_out = columns(test)
    metrics = held_out_metrics(held_out) | {
        # Measured here: exemplars have taken the place of the prior with which the epoch was the best.
        "validation_elbo": float(np.mean(bounds(engine, validation, base_samples)["elbo"])),
        **(training.metrics() if training else {}),
        **({"calibration_repeats": splits.repeats} if splits.repeats else {}),
        **{f"{graph}_largest_error": error for graph, error in errors.items()},
        **{f"sensitivity_{name}": auroc for name, auroc in sensitivity.items()},
    }
    calibrated = {"noise": base_samples, **{name: np.sort(values) for name, values in held_out_scores.items()}}
    rows, draws = verified(test[0].size, len(base_samples))
    files |= {
        CALIBRATION: write_arrays(calibrated),
        GOLDEN: write_arrays(golden_rows(engine, graphs, test[: min(GOLDEN_ROWS, rows)], base_samples[:draws])),
    }
    described = dataset.input
    if isinstance(described, TabularInput):
        described = with_ranges(described, sample(dataset, splits.train, origin.bound.seed))
        by_pattern = missing_cell_scores(score, calibration_rows, held_out_scores)
        files |= {MISSING_CELLS: write_arrays(by_pattern)} if by_pattern else {}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=origin.name,
        version=repository.next_version(origin.name),
        created=datetime.now(UTC),
        input=described,
        latent_size=vae.prior.latent_size,
        likelihood=origin.likelihood,
        prior=origin.prior,
        num_draws=origin.bound.num_draws,
        seed=origin.bound.seed,
        scores=tuple(held_out_scores),
        default_score=choose(sensitivity, len(validation), dataset.input),
        calibration=Calibration.of(len(splits.calibration), origin.bound.refine),
        tolerance=TOLERANCE,
        graphs=graphs,
        files=describe_files(files),
        metrics=metrics,
        provenance=Provenance(
            recipe=origin.record,
            data_sha256=dataset.fingerprint,
            splits=splits.record(),
            commit=_commit(),
            packages={package: version(package) for package in _PACKAGES},
        ),
    )
    say("drawing the model card")
    history, best = (training.history, training.best) if training else ([], None)
    files |= write_card(CardInputs(manifest, engine, calibrated, history, best, test, splits.test, scores(held_out)))
    return repository.write(manifest.model_copy(update={"files": describe_files(files)}), files)


def _stages() -> Callable[[str], None]:
    """A function that names each stage of the publishing as it begins, with the seconds since the first one."""
    console, started = Console(stderr=True, soft_wrap=True), time.perf_counter()

    def say(stage: str) -> None:
        console.print(f"{stage}, after {time.perf_counter() - started:.1f} s", highlight=False)

    return say


def golden_rows(engine: OnnxEngine, graphs: Iterable[str], x: Array, base_samples: Array) -> dict[str, Array]:
    """Inputs and outputs of every graph for rows x, by graph and tensor, as a bundle's `GOLDEN` has them."""
    latents = engine.run("encoder", {"x": x})["mean"]
    tensors: dict[str, Array] = {}
    for graph in graphs:
        by_row, shared = graph_inputs(graph, x, base_samples, latents)
        inputs = by_row | shared
        tensors |= {f"{graph}.{name}": array for name, array in (inputs | engine.run(graph, inputs)).items()}
    return tensors


def _commit() -> str | None:
    """The revision of the trainer's source, marked where it was changed since; None where git knows of none."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
