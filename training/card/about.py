"""The card's sections that say what the model is: its summary, provenance, use and figures."""

import json
from collections.abc import Iterator

import numpy as np

from service.bundle import ImageInput, TabularInput
from training.card.alarms import LEVELS, threshold
from training.card.inputs import CardInputs
from training.card.page import Cell, Number, Section, Table, percent

MEANING = {
    "test_elbo": "mean ELBO of the test rows, nats per row: higher is better",
    "test_elbo_standard_error_of_mean": "its standard error over the rows, nats",
    "test_log_likelihood": "mean log p(x|z) under the posterior, nats per row",
    "test_kl": "mean KL(q ‖ p), nats per row",
    "test_log_evidence": "mean importance-weighted bound on log p(x), nats per row",
    "test_standard_error": "mean standard error of a row's log-likelihood over its draws, nats",
    "test_ess": "mean effective share of the draws",
    "validation_elbo": "mean ELBO of the rows that chose the best epoch, nats per row",
    "active_units": "latents whose posterior mean varies over the validation rows",
    "mutual_information": "of row and latents, nats, over the validation rows: at most the log of their number",
    "marginal_kl": "KL of the rows' mixed posteriors from the prior, nats",
    "epochs": "epochs trained",
    "seconds_per_epoch": "median seconds of an epoch",
    "calibration_repeats": "share of the calibration rows that repeat training or validation rows",
}

_MISSING_CELLS = (
    "The service compares a row with missing cells with held-out rows that lack the same cells; this card compares "
    "test rows with the calibration rows as they are. "
)


def summary(inputs: CardInputs) -> str:
    """Describe the model in a sentence or two."""
    manifest = inputs.manifest
    rows = manifest.provenance.splits
    learned = f" It learned from {rows['train'].rows:,} rows." if "train" in rows else ""
    return (
        f"A variational autoencoder of {_data(inputs)}, with {manifest.latent_size} latents. It scores how usual a "
        f"row is by the evidence lower bound (ELBO), in nats, and says how rarely normal rows score as badly.{learned}"
    )


def facts(inputs: CardInputs) -> dict[str, Cell]:
    """The figures to know first."""
    metrics = inputs.manifest.metrics
    names = {"test_elbo": "mean held-out ELBO, nats", "test_kl": "of it KL, nats", "active_units": "active latents"}
    shown: dict[str, Cell] = {label: Number(metrics[name]) for name, label in names.items() if name in metrics}
    for level in LEVELS[:2]:
        if threshold(inputs.default_calibration, level) is not None:
            share = float(np.mean(inputs.default_p_values <= level / 100))
            shown[f"false alarms at {level} %"] = percent(share)
    return shown


def sections(inputs: CardInputs) -> Iterator[Section]:
    """Provenance, use and figures."""
    yield _provenance(inputs)
    yield _use(inputs)
    yield _figures(inputs)


def _provenance(inputs: CardInputs) -> Section:
    manifest = inputs.manifest
    origin = manifest.provenance
    size = sum(file.size for file in manifest.files.values())
    rows: list[list[Cell]] = [
        ["model", f"{manifest.name}, version {manifest.version}"],
        ["made", f"{manifest.created:%Y-%m-%d %H:%M} UTC"],
        ["data", _data(inputs)],
        ["fingerprint of the data", origin.data_sha256 or "unknown"],
        ["rows", ", ".join(f"{part.rows:,} {name}" for name, part in origin.splits.items())],
        ["likelihood p(x|z)", manifest.likelihood],
        ["prior p(z)", manifest.prior],
        ["latents", str(manifest.latent_size)],
        ["architecture", _architecture(inputs)],
        ["draws of the bound", f"{manifest.num_draws}, seed {manifest.seed}"],
        ["scores", ", ".join(f"{s} (default)" if s == manifest.default_score else s for s in manifest.scores)],
        ["size", f"{size / 2**20:.1f} MiB in {len(manifest.files)} files, without this card"],
        ["source revision", origin.commit or "unknown"],
    ]
    return Section(
        "provenance",
        "Provenance",
        tables=[Table("What this is and where it comes from.", [], rows)],
        folded={
            "The whole recipe": json.dumps(origin.recipe, indent=2, ensure_ascii=False),
            "Versions of packages": "\n".join(f"{name} {version}" for name, version in origin.packages.items()),
        },
    )


def _use(inputs: CardInputs) -> Section:
    num_held_out = len(inputs.default_calibration)
    missing_cells = _MISSING_CELLS if isinstance(inputs.manifest.input, TabularInput) else ""
    share = inputs.manifest.metrics.get("calibration_repeats", 0.0)
    repeats = f"Of these, {percent(share)} repeat rows that it learned from; new rows must do so as often. "
    return Section(
        "use",
        "Use and limits",
        "For: ranking rows by how unusual they are among rows like those it learned from, alarms at a stated "
        "rate of false ones, embeddings, and synthetic rows. Not for: deciding what is wrong, harmful or "
        "fraudulent. Rare is not wrong, and an anomaly that the model can reconstruct goes unseen.\n\nA p-value "
        "is valid for rows that could as well have been among the calibration rows: same source, same time, same "
        f"preparation. {repeats if share else ''}{missing_cells}Where the data drifts, calibrate anew. With "
        f"{num_held_out:,} calibration rows no p-value is "
        f"below {1 / (num_held_out + 1):.2g}.\n\nThe ELBO is a bound on log p(x) in the units of the data: those of "
        "different data, or of the same data in other units, do not compare. Figures below are of held-out rows "
        "of one split; another split would give others.",
    )


def _figures(inputs: CardInputs) -> Section:
    table = Table(
        "As the manifest has them, computed from the exported graphs by the engine that serves them.",
        ["figure", "value", "meaning"],
        [[name, Number(value, 6), _meaning(name)] for name, value in inputs.manifest.metrics.items()],
    )
    return Section("figures", "Held-out figures", tables=[table])


def _meaning(name: str) -> str:
    if (graph := name.removesuffix("_largest_error")) != name:
        return f"largest difference of {graph}.onnx from PyTorch"
    if (score := name.removeprefix("sensitivity_")) != name:
        return f"AUROC of {score} for telling validation rows from the same rows rearranged"
    return MEANING.get(name, "")


def _data(inputs: CardInputs) -> str:
    data = inputs.manifest.input
    if isinstance(data, ImageInput):
        channels = {1: "grey", 3: "colour"}[data.shape[2] if len(data.shape) == 3 else 1]
        kind = "levels" if data.dtype == "uint8" else "values"
        return f"{channels} images of {data.shape[0]} × {data.shape[1]} pixels, {kind} {data.low:g} to {data.high:g}"
    categories = sum(column.type == "categorical" for column in data.columns)
    return f"table rows of {len(data.columns) - categories} numbers and {categories} categories"


def _architecture(inputs: CardInputs) -> str:
    match inputs.manifest.provenance.recipe.get("model"):
        case {"architecture": architecture, "widths": list(widths)}:
            return f"{architecture}, widths {', '.join(map(str, widths))}"
    return "unknown"
