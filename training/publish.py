"""The last stage of a run: export, verify, calibrate, measure, and write the bundle.

Golden rows, calibration and figures come from the service's own engine and the exported graphs, never from torch.
"""

import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

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
from service.scoring import noise, scores
from service.storage import LocalStore
from service.storage.remote import RemoteStore
from training.card import CardInputs, write_card
from training.datasets import Dataset, Splits
from training.evaluation.bounds import bounds, held_out_metrics, score_columns
from training.evaluation.missing_cells import missing_cell_scores
from training.evaluation.score_selection import choose, sensitivities
from training.export.graphs import graph_modules
from training.export.onnx import TOLERANCE, export_graphs, graph_inputs, verify
from training.fit import Epoch, Progress
from training.model import VAE
from training.recipes import Recipe

GOLDEN_ROWS = 4
VERIFIED_ROWS = 64
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
    _export(vae.eval(), dataset, splits, recipe)


def _export(
    vae: VAE, dataset: Dataset, splits: Splits, recipe: Recipe
) -> tuple[dict[str, Graph], dict[str, bytes], OnnxEngine, dict[str, float]]:
    """The graphs of a VAE, the files and the engine that compute them, and the largest differences from torch."""
    modules = graph_modules(vae, dataset.input, dataset.rows[splits.validation])
    graphs, files = export_graphs(modules, dataset.input, vae.prior.latent_size)
    engine = OnnxEngine(graphs, files, "cpu")
    base_samples = noise.base_samples(recipe.bound.seed, recipe.bound.num_draws, vae.prior.latent_size)
    errors = verify(modules, dataset.input, engine, dataset.rows[splits.test][:VERIFIED_ROWS], base_samples)
    return graphs, files, engine, errors


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
    vae = vae.cpu().eval()
    validation = dataset.rows[splits.validation]
    graphs, files, engine, errors = _export(vae, dataset, splits, recipe)
    base_samples = noise.base_samples(recipe.bound.seed, recipe.bound.num_draws, vae.prior.latent_size)
    test = dataset.rows[splits.test]

    def score(x: Array, refine: int = 0) -> dict[str, Array]:
        return scores(score_columns(engine, graphs, x, base_samples, refine))

    calibration_rows = dataset.rows[splits.calibration]
    held_out_scores = score(calibration_rows, recipe.bound.refine)
    sensitivity = sensitivities(score, dataset.input, validation, recipe.bound.seed)
    best = Progress(recipe.fit, history).best
    assert best is not None  # noqa: S101 - there is an epoch
    held_out = bounds(engine, test, base_samples)
    metrics = held_out_metrics(held_out) | {
        "validation_elbo": best.held_out_elbo,
        "active_units": best.active_units,
        "mutual_information": best.mutual_information,
        "marginal_kl": best.marginal_kl,
        "epochs": len(history),
        "seconds_per_epoch": float(np.median([epoch.seconds for epoch in history])),
        **{f"{graph}_largest_error": error for graph, error in errors.items()},
        **{f"sensitivity_{name}": auroc for name, auroc in sensitivity.items()},
    }
    calibrated = {"noise": base_samples, **{name: np.sort(values) for name, values in held_out_scores.items()}}
    files |= {
        CALIBRATION: write_arrays(calibrated),
        GOLDEN: write_arrays(_golden(engine, graphs, test[:GOLDEN_ROWS], base_samples)),
    }
    if isinstance(dataset.input, TabularInput):
        by_pattern = missing_cell_scores(score, calibration_rows, held_out_scores)
        files |= {MISSING_CELLS: write_arrays(by_pattern)} if by_pattern else {}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=recipe.name,
        version=max(repository.taken(recipe.name), default=0) + 1,
        created=datetime.now(UTC),
        input=dataset.input,
        latent_size=vae.prior.latent_size,
        likelihood=recipe.model.likelihood,
        prior=recipe.model.prior,
        num_draws=recipe.bound.num_draws,
        seed=recipe.bound.seed,
        scores=tuple(held_out_scores),
        default_score=choose(sensitivity, len(validation)),
        calibration=Calibration.of(len(splits.calibration), recipe.bound.refine),
        tolerance=TOLERANCE,
        graphs=graphs,
        files=describe_files(files),
        metrics=metrics,
        provenance=Provenance(
            recipe=recipe.record(),
            data_sha256=dataset.fingerprint,
            splits=splits.record(),
            commit=_commit(),
            packages={package: version(package) for package in _PACKAGES},
        ),
    )
    files |= write_card(CardInputs(manifest, engine, calibrated, history, best, test, splits.test, score(test)))
    return repository.write(manifest.model_copy(update={"files": describe_files(files)}), files)


def _golden(engine: OnnxEngine, graphs: dict[str, Graph], x: Array, base_samples: Array) -> dict[str, Array]:
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
