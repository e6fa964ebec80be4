"""`lowerbound train ... --screen`: which training rows are strange to models that were not trained on them."""

import hashlib
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.csv
import torch
from rich.console import Console

from service.bundle import Array, TabularInput, graph_contract
from service.codecs.rows import Marks, Reading, Rows
from service.codecs.strangest import strangest_cells
from service.engine import Kind, Precision
from service.readers.labels import FILE, LABEL, ROW
from service.small_files import replace_file
from training.datasets import Dataset
from training.datasets.splits import divide
from training.evaluation.bounds import bounds, surprise
from training.export.graphs import graph_modules
from training.fit import sample, training_rows
from training.fit.loop import fit
from training.model import VAE
from training.model.build import build
from training.recipes import Recipe

FOLDS = 3
"""Each model is trained on two thirds of the rows: more folds take longer, and find much the same."""

VALIDATION = 0.1
"""Share of a model's rows that choose its best epoch."""

EARLY = 300
"""The most steps of training: a model that trains longer learns the anomalies, too, above all similar ones."""

EXPLAINED = 200
"""Strangest rows of a fold whose cells are named; a person reads no more."""


class TorchEngine:
    """Runs a trained VAE as a bundle's graphs are run, without exporting it.

    Args:
        vae: Trained, on the CPU.
        dataset: What kind of data.
        normal: Rows that say what is typical, (n, *shape).
    """

    device: Kind = "cpu"
    precision: Precision = "float32"
    refused: Mapping[Precision, float] = MappingProxyType({})

    def __init__(self, vae: VAE, dataset: Dataset, normal: Array) -> None:
        modules = graph_modules(vae, dataset.input, normal)
        self._modules = {
            name: (module, graph_contract(name, dataset.input, vae.prior.latent_size))
            for name, module in modules.items()
        }

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every output of `graph` by name."""
        module, contract = self._modules[graph]
        with torch.no_grad():
            answer = module(*(torch.from_numpy(inputs[tensor.name]) for tensor in contract.inputs))
        return {tensor.name: values.numpy() for tensor, values in zip(contract.outputs, answer, strict=True)}


def screen(recipe: Recipe, dataset: Dataset, path: Path, console: Console) -> None:
    """Score every row by a model that was trained on others, and write the rows, strangest first, as CSV.

    The columns are `row`, the number in the file from 1, or a picture's `file`; `label`, empty, for a person to fill
    in; `share`, of the fold's rows that are at least as strange; `score`, the negative ELBO in nats; and a table's
    strangest cells. Equal rows lie in one fold, so that a repeated anomaly does not vouch for itself. With labels
    filled in, the file is one for `--dataset.exclude_labels`. Finished epochs are kept in the folder of runs, and a
    second call goes on there.

    Args:
        recipe: How to train.
        dataset: The rows; a test set of the source's own is left out.
        path: The file to write.
        console: Tells how far it is.

    Raises:
        FileError: There are too few distinct rows.
        OSError: The file or the runs cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    rows = dataset.rows[: len(dataset.rows) - dataset.num_test]
    folds = divide(rows, np.full(FOLDS - 1, 1 / FOLDS), recipe.split.seed)
    record = json.dumps(recipe.record(), sort_keys=True) + dataset.fingerprint
    runs = recipe.runs / recipe.name / f"screen-{hashlib.sha256(record.encode()).hexdigest()[:12]}"
    found = []
    for number, fold in enumerate(folds, 1):
        console.print(f"model {number} of {FOLDS}: scores {len(fold):,} rows that it is not trained on")
        found.append(_score(recipe, dataset, fold, np.setdiff1d(np.arange(len(rows)), fold), runs / str(number)))
    table = pa.concat_tables(found, promote_options="default").sort_by(
        [("share", "ascending"), ("score", "descending")]
    )
    pyarrow.csv.write_csv(table, written := io.BytesIO())
    replace_file(path, written.getvalue())
    console.print(
        f"{path}: written, strangest rows first. Write 'anomaly' into the column 'label' of those that are, and train "
        f"with --dataset.exclude_labels {path}",
        markup=False,
    )


def _score(recipe: Recipe, dataset: Dataset, fold: Array, others: Array, run: Path) -> pa.Table:
    """Train on the other rows, and rank those of a fold.

    Exemplars would be anomalies, too, and the training is short: see `EARLY`.
    """
    options = recipe.fit.model_copy(update={"exemplars": 0, "steps": min(recipe.fit.steps or EARLY, EARLY)})
    validation, train = (others[part] for part in divide(dataset.rows[others], np.array([VALIDATION]), recipe.fit.seed))
    vae = build(recipe.model, dataset.input, sample(dataset, train, recipe.fit.seed), recipe.fit.seed)
    base_samples = recipe.bound.base_samples(vae.prior.latent_size)
    held_out = dataset.rows[validation]
    run.mkdir(parents=True, exist_ok=True)
    rows = training_rows(dataset, train)
    fit(vae, rows, torch.from_numpy(held_out), torch.from_numpy(base_samples), options, run)
    engine = TorchEngine(vae.cpu(), dataset, held_out)

    x = dataset.rows[fold]
    elbo = bounds(engine, x, base_samples)["elbo"]
    score = np.where(np.isfinite(elbo), -elbo, math.inf)  # A row too far away for a finite bound is the strangest.
    order = np.argsort(-score, kind="stable")
    numbers = fold if dataset.numbers is None else dataset.numbers[fold]
    files = dataset.names and pa.array([dataset.names[row] for row in fold[order]])
    columns = {
        **({FILE: files} if files else {ROW: pa.array(numbers[order] + 1)}),
        LABEL: pa.nulls(len(fold), pa.string()),
        "share": pa.array(np.searchsorted(np.sort(-score), -score[order], side="right") / len(fold)),
        "score": pa.array(score[order]),
    }
    if isinstance(dataset.input, TabularInput):
        columns |= _cells(engine, dataset.input, x[order], base_samples, elbo[order])
    return pa.table(columns)


def _cells(engine: TorchEngine, data: TabularInput, x: Array, base_samples: Array, elbo: Array) -> dict[str, pa.Array]:
    """The strangest cells of the first `EXPLAINED` rows, as `lowerbound score` names them."""
    explained = np.flatnonzero(np.isfinite(elbo[:EXPLAINED]))
    if not len(explained):
        return {}
    answer = surprise(engine, x[explained], base_samples, elbo[explained], data)
    return strangest_cells(Rows(x[explained], explained, len(x), Marks(), Reading()), answer, data)
