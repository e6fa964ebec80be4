"""`lowerbound evaluate BUNDLE`: figures of a bundle's model on rows that it was not trained on.

The service's own engine computes the model's figures from the bundle's graphs. Only the baselines are fitted here, on
the rows that the model was trained on.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from pydantic_settings import CliImplicitFlag, CliPositionalArg, SettingsConfigDict
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from service.bundle import BOUNDS, Array, Bundle, Category, ImageInput, TabularInput, read_bundle
from service.cli import CommandOptions, parse
from service.codecs.rendering import render_records
from service.engine import Device, Engine, OnnxEngine
from service.errors import LowerboundError, printable
from service.scoring import MAX_DRAWS, HeldOutScores, finite_bounds, noise, scores
from service.small_files import replace_file
from service.storage import Location
from training.datasets import Dataset, Source, download, split
from training.evaluation.baselines import BASELINES, baseline_scores
from training.evaluation.bounds import compute, log_evidence, score_columns, surprise
from training.evaluation.detection import LEVELS, detection_figures
from training.recipes import Recipe

STRANGEST = 5
BLAMED = 5
"""Features named for each of the strangest rows."""

Report = dict[str, Any]


class EvaluationError(LowerboundError):
    """An evaluation that cannot be made. The message says what is missing or wrong."""


class Evaluation(CommandOptions):
    """Measure a bundle: likelihood, detection beside baselines, and the features that make its strangest rows strange.

    Examples:
      lowerbound evaluate models/rows/1                                    the test rows of the bundle's own data
      lowerbound evaluate models/rows/1 --label fraud                      how well each score finds the anomalies
      lowerbound evaluate models/rows/1 --test new.csv --label fraud       other rows

    Tables go to standard output, and the whole report to a JSON file.
    """

    model_config = SettingsConfigDict(cli_prog_name="lowerbound evaluate")

    bundle: CliPositionalArg[Path] = Field(description="The bundle's folder, <repository>/<name>/<version>.")
    data: Location | None = Field(default=None, description="The data it was trained on, if it is no longer there.")
    test: Location | None = Field(default=None, description="Other rows to evaluate, instead of the data's test part.")
    label: str | None = Field(
        default=None, description="Column, or array of the .npz file, that is 1 for anomalies and 0 for normal rows."
    )
    num_draws: int = Field(default=1000, ge=1, le=MAX_DRAWS, description="S, importance samples of log p(x).")
    baselines: CliImplicitFlag[bool] = Field(default=True, description="Fit baselines, where there are labels.")
    device: Device = Field(default="auto", description="Where to compute; auto: CUDA if it works, else the CPU.")
    out: Path = Field(default=Path("evaluation.json"), description="The report, as JSON.")


@dataclass(frozen=True, eq=False)
class Rows:
    """What is evaluated.

    Attributes:
        x: Raw rows, (N, *shape).
        numbers: Their numbers in the file they are from, from 0, (N,).
        anomalous: Which are anomalies, (N,), where that is known.
        train: The model's training rows, raw, where they are at hand.
    """

    x: Array
    numbers: Array
    anomalous: Array | None
    train: Array | None


def main(arguments: list[str]) -> None:
    """Evaluate, print the tables, write the report.

    Raises:
        ValidationError: The arguments are wrong.
        LowerboundError: The bundle or the data cannot be used.
        OSError: The report cannot be written.
    """
    options = parse(Evaluation, arguments)
    report = evaluate(options)
    for table in tables(report):
        Console(soft_wrap=True).print(table)
    replace_file(options.out, json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False).encode() + b"\n")
    Console(stderr=True, soft_wrap=True).print(f"report: {options.out}", markup=False)


def evaluate(options: Evaluation) -> Report:
    """Everything that is to be said of a bundle, as JSON.

    Raises:
        EvaluationError: The bundle does not say how it was trained, the data is not what it was trained on, or the
            labels are all alike.
        BundleError: It is no bundle that can be served.
        FileError: The data cannot be read, or has no such labels.
    """
    bundle = read_bundle(options.bundle)
    manifest = bundle.manifest
    engine = OnnxEngine(manifest.graphs, bundle.files, options.device)
    rows = find_rows(bundle, options)

    refine = manifest.calibration.refine
    columns = score_columns(engine, manifest.graphs, rows.x, bundle.calibration["noise"], refine)
    finite = finite_bounds(columns)
    if not finite.any():
        raise EvaluationError("every row is too far from the training data for a finite bound")
    base_samples = noise.base_samples(manifest.seed, options.num_draws, manifest.latent_size)
    made = scores(columns)
    by_score = {name: np.where(finite, made[name], math.inf) for name in manifest.scores}
    report: Report = {
        "bundle": {"name": manifest.name, "version": manifest.version, "sha256": bundle.digest},
        "device": engine.device,
        "rows": len(rows.x),
        "rows_without_finite_bound": int((~finite).sum()),
        "mean_bounds": {n: float(mean) for n in BOUNDS if np.isfinite(mean := columns[n][finite].mean())},
        "likelihood": _likelihood(engine, rows.x[finite], base_samples),
    }
    normal = ~rows.anomalous if rows.anomalous is not None else np.ones(len(rows.x), bool)
    p = {name: _p_values(bundle, name, values, rows.x) for name, values in by_score.items()}
    report["false_alarms"] = {
        name: {f"{level:.0%}": float(np.mean(values[normal] <= level)) for level in LEVELS}
        for name, values in p.items()
    }
    if rows.anomalous is not None:
        report["detection"] = {name: detection_figures(values, rows.anomalous) for name, values in by_score.items()}
        if rows.train is not None:
            report["baselines"] = _baselines(manifest.input, rows.train, rows.x, rows.anomalous)
    if "explain" in manifest.graphs:
        default = by_score[manifest.default_score]
        report["strangest"] = _strangest(bundle, engine, rows, default, columns["elbo"], finite)
    return report


def find_rows(bundle: Bundle, options: Evaluation) -> Rows:
    """The rows to evaluate and, where baselines need them, the training rows: found again by the bundle's recipe."""
    manifest = bundle.manifest
    if not manifest.provenance.recipe:
        raise EvaluationError(
            f"{options.bundle}: the manifest has no recipe, which says how its data is read and split"
        )
    if options.label in manifest.input.features:
        raise EvaluationError(f"{options.label!r} is a feature of the model; train without it, by dataset.drop")
    recipe = Recipe.model_validate(manifest.provenance.recipe)
    path = options.data or recipe.data

    def load(place: Path | str | None, source: Source) -> tuple[Dataset, Array | None]:
        with download(place) as path:
            dataset = source.load_rows(path, manifest.input)
            return dataset, source.load_labels(path, options.label) if options.label else None

    def own() -> tuple[Dataset, Array | None]:
        dataset, labels = load(path, recipe.dataset)
        if dataset.fingerprint != manifest.provenance.data_sha256:
            raise EvaluationError(
                f"{path}: not the data that {manifest.title} was trained on, by which its test part "
                "and the baselines' training rows are known; other rows are evaluated as --test"
            )
        return dataset, labels

    dataset, labels = load(options.test, recipe.dataset.for_other_rows()) if options.test is not None else own()
    parts = split(dataset, recipe.split) if options.test is None else None
    chosen = np.arange(len(dataset.rows)) if parts is None else parts.test
    x, numbers = dataset.rows[chosen], chosen if dataset.numbers is None else dataset.numbers[chosen]
    anomalous = labels[chosen] if labels is not None else None
    if (excluded := dataset.excluded) is not None:
        known = np.zeros(len(x), bool) if anomalous is None else anomalous
        anomalous = np.concatenate([known, np.ones(len(excluded.rows), bool)])
        x, numbers = np.concatenate([x, excluded.rows]), np.concatenate([numbers, excluded.numbers])
    train = None
    if options.baselines and anomalous is not None:
        trained = dataset if parts is not None else own()[0]
        train = trained.rows[(parts or split(trained, recipe.split)).train]
    if anomalous is not None and anomalous.all() == anomalous.any():
        raise EvaluationError(f"{options.label}: all {len(x)} rows to evaluate have the same label")
    return Rows(x, numbers, anomalous, train)


def _p_values(bundle: Bundle, score: str, values: Array, x: Array) -> Array:
    """The p-values of rows x by one of their scores, as `/elbo` answers them; NaN where a row has none."""
    return HeldOutScores.read(score, bundle.calibration[score], bundle.missing_cells).p_values(values, x)


def _likelihood(engine: Engine, x: Array, base_samples: Array) -> Report:
    """Log p(x) by importance sampling, nats per row, and in bits per value: cells that are missing count as none."""
    evidence = log_evidence(engine, x, base_samples)
    observed = np.isfinite(x).sum()
    return {
        "num_draws": len(base_samples),
        "log_evidence": float(evidence.mean()),
        "standard_error": float(evidence.std() / math.sqrt(len(evidence))),
        "bits_per_dimension": float(-evidence.sum() / observed / math.log(2)),
    }


def _baselines(data: ImageInput | TabularInput, train: Array, x: Array, anomalous: Array) -> Report:
    """The detection figures of every baseline."""
    report: Report = {}
    console = Console(stderr=True)
    for name, baseline in BASELINES.items():
        with console.status(name):
            report[name] = detection_figures(baseline_scores(baseline, data, train, x, seed=0), anomalous)
    return report


def _strangest(bundle: Bundle, engine: Engine, rows: Rows, scores: Array, elbo: Array, finite: Array) -> list[Report]:
    """The rows of the highest score, and the features that make them strange.

    `nats` says how strange: of a table's cell by how much the ELBO rises when it alone is as `expected`, of a pixel by
    how much its log-likelihood lies below its median over all rows.
    """
    data, base_samples = bundle.manifest.input, bundle.calibration["noise"]
    places = np.flatnonzero(finite)
    order = np.argsort(-scores[places], kind="stable")[:STRANGEST]
    chosen = places[order]
    if isinstance(data, TabularInput):
        answer = surprise(engine, rows.x[chosen], base_samples, elbo[chosen], data)
        nats, expected = answer["feature_surprise"], render_records(answer["feature_expected"], data)
    else:
        answer = compute(engine, "explain", {"x": rows.x[places]}, base_samples)
        features = answer["feature_log_likelihood"].reshape(len(places), -1)
        nats, expected = np.median(features, axis=0) - features[order], None
    p_value = _p_values(bundle, bundle.manifest.default_score, scores[chosen], rows.x[chosen])
    strangest = []
    for i, place in enumerate(chosen):
        blamed = [j for j in np.argsort(-nats[i], kind="stable")[:BLAMED] if nats[i, j] > 0]
        names = [data.features[j] for j in blamed]
        strangest.append(
            {
                "row": int(rows.numbers[place]),
                "score": float(scores[place]),
                "p_value": None if np.isnan(p := p_value[i]) else float(p),
                **({} if rows.anomalous is None else {"anomalous": bool(rows.anomalous[place])}),
                "nats": {name: float(nats[i, j]) for name, j in zip(names, blamed, strict=True)},
                **({} if expected is None else {"expected": {name: expected[i][name] for name in names}}),
            }
        )
    return strangest


def tables(report: Report) -> list[Table]:
    """The report for people."""
    bundle, likelihood = report["bundle"], report["likelihood"]
    summary = Table("", "", title=f"{bundle['name']} {bundle['version']}, {report['rows']:,} rows", show_header=False)
    draws = f"{likelihood['num_draws']:,} draws"
    summary.add_row(f"log p(x), {draws}", f"{likelihood['log_evidence']:.4f} ± {likelihood['standard_error']:.4f} nats")
    summary.add_row("bits per dimension", f"{likelihood['bits_per_dimension']:.4f}")
    for name, mean in report["mean_bounds"].items():
        summary.add_row(f"mean {name}", f"{mean:.4f}")
    for score, alarms in report["false_alarms"].items():
        summary.add_row(f"false alarms, {score}", ", ".join(f"{rate:.1%} at {level}" for level, rate in alarms.items()))
    shown = [summary]
    if "detection" in report:
        figures = report["detection"] | report.get("baselines", {})
        names = list(next(iter(report["detection"].values())))
        heads = (name.replace("_", " ") for name in names)
        detection = Table(Column("score", no_wrap=True), *heads, title="detection, and at what share of false alarms")
        for score, values in figures.items():
            detection.add_row(score, *(f"{values[name]:.4f}" for name in names))
        shown.append(detection)
    if "strangest" in report:
        strangest = Table("row", "score", "p-value", "nats, by feature", title="the strangest rows")
        for row in report["strangest"]:
            blamed = ", ".join(
                f"{name} {nats:.1f}" + (f" (expected {_short(row['expected'][name])})" if "expected" in row else "")
                for name, nats in row["nats"].items()
            )
            p = "none" if row["p_value"] is None else f"{row['p_value']:.4f}"
            strangest.add_row(str(row["row"]), f"{row['score']:.2f}", p, Text(printable(blamed)))
        shown.append(strangest)
    return shown


def _short(value: Category) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
