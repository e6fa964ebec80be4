"""`lowerbound recalibrate BUNDLE`: a new version that compares with confirmed rows too, without training."""

import sys
from pathlib import Path

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from service.bulk.whole import open_model, read_whole
from service.bundle import (
    CALIBRATION,
    MISSING_CELLS,
    Array,
    Bundle,
    Calibration,
    Recalibration,
    describe_files,
    read_bundle,
    write_arrays,
)
from service.cli import CommandOptions, parse
from service.engine import Device
from service.errors import FileError
from service.inference import Model
from service.readers.labels import read_labels
from service.scoring import ElboQuery, Recalibrated, recalibrate
from service.storage import LocalStore


class Recalibrating(CommandOptions):
    """Write the next version of a bundle, with confirmed normal rows among its held-out rows, and without anomalies.

    Examples:
      lowerbound recalibrate models/payments/1 --data june.csv --labels labels.csv --key payment_id
      lowerbound recalibrate models/payments/1 --data normal.parquet

    P-values stay exact if the normal rows were chosen without their scores, as a random sample or all rows of a day,
    did not train the model and were not added before. The rows of highest scores alone are no such choice.
    """

    model_config = SettingsConfigDict(cli_prog_name="lowerbound recalibrate")

    bundle: CliPositionalArg[Path] = Field(description="The bundle's folder, <repository>/<name>/<version>.")
    data: Path = Field(description="Confirmed rows: a file or folder as `lowerbound score` takes.")
    labels: Path | None = Field(
        default=None,
        description="A file .csv or .parquet with the column `label`, normal or anomaly, and the key; other rows are "
        "passed over. Default: all rows are normal.",
    )
    key: str = Field(
        default="row",
        description="Column of both that says which row is meant. row: its number; file: a picture's name.",
    )
    device: Device = Field(default="auto", description="Where to compute; auto: CUDA if it works, else the CPU.")


def main(arguments: list[str]) -> None:
    """Write the new version, say what has changed, and print its place.

    Raises:
        ValidationError: An option is wrong.
        LowerboundError: The bundle or a file cannot be used, or nothing changes.
        OSError: The bundle cannot be written.
    """
    given = parse(Recalibrating, arguments)
    bundle = read_bundle(given.bundle)
    keys, x, anomalous = _confirmed(given, bundle)
    manifest, calibration = bundle.manifest, bundle.calibration
    held_out = {name: calibration[name] for name in manifest.scores}
    with open_model(bundle, given.device) as run:

        def score(x: Array) -> dict[str, Array]:
            return run(lambda model: _scores(model, x))

        made = score(x[~anomalous]) if not anomalous.all() else {}
        far = ~np.all([np.isfinite(values) for values in made.values()], axis=0)
        if far.any():
            key = np.array(keys)[~anomalous][far][0]
            raise FileError(f"{given.data}: {given.key} {key} is too far from the training data for a finite bound")
        new = recalibrate(held_out, bundle.missing_cells, x, anomalous, score)
    if not new.added and not new.removed:
        raise FileError(f"{given.data}: no row to add, and no anomaly among the held-out rows; nothing is written")
    place = _write(given.bundle, bundle, new)
    print(_summary(new, int(anomalous.sum()), manifest.calibration.rows), file=sys.stderr)
    print(place)


def _confirmed(given: Recalibrating, bundle: Bundle) -> tuple[list[str], Array, Array]:
    """The keys of the confirmed rows, the rows, and which are anomalies.

    Raises:
        FileError: A file cannot be read, a confirmed row has a problem, or a label names no row.
    """
    file = read_whole(str(given.data), bundle.manifest.input, given.key)
    labels = None if given.labels is None else read_labels(given.labels, given.key, file.keys)
    chosen = [row for row, key in enumerate(file.keys) if labels is None or key in labels]
    problems = file.unseen | file.unreadable
    if wrong := [row for row in chosen if row in problems]:
        raise FileError(problems[wrong[0]])
    keys = [file.keys[row] for row in chosen]
    if labels is not None and len(set(keys)) < len(keys):
        raise FileError(f"{given.data}: two rows have the same {given.key}; give another --key")
    if labels is not None and (absent := sorted(labels.keys() - set(keys))):
        raise FileError(f"{given.labels}: {given.key} {absent[0]!r} is not in {given.data}")
    if not keys:
        raise FileError(f"{given.data}: no confirmed rows")
    return keys, file.x[chosen], np.array([bool(labels and labels[key]) for key in keys])


async def _scores(model: Model, x: Array) -> dict[str, Array]:
    """All calibrated scores of rows, as the service computes them."""
    queries = {name: ElboQuery.model_validate({"score": name, "observe": False}) for name in model.manifest.scores}
    return {name: (await model.elbo(x, query))["score"] for name, query in queries.items()}


def _write(folder: Path, bundle: Bundle, new: Recalibrated) -> Path:
    """Write the bundle's graphs with the new calibration, without the card, which is about the old one."""
    before = bundle.manifest
    files = {name: data for name, data in bundle.files.items() if not name.startswith("card/")}
    files[CALIBRATION] = write_arrays({"noise": bundle.calibration["noise"], **new.scores})
    if new.missing_cells:
        files[MISSING_CELLS] = write_arrays(new.missing_cells)
    rows = before.calibration.rows + new.added - new.removed
    step = Recalibration(version=before.version, bundle=bundle.digest, added=new.added, removed=new.removed)
    steps = (*before.provenance.recalibrations, step)
    changes = {
        "calibration": Calibration.of(rows, before.calibration.refine),
        "files": describe_files(files),
        "provenance": before.provenance.model_copy(update={"recalibrations": steps}),
    }
    return LocalStore(folder.resolve().parents[1]).write_next(before.model_copy(update=changes), files)


def _summary(new: Recalibrated, anomalies: int, before: int) -> str:
    rows = before + new.added - new.removed
    parts = [f"added {new.added:,} normal rows"]
    if new.repeated:
        parts.append(f"{new.repeated:,} of them with the scores of held-out rows: do not add a row twice")
    if anomalies:
        parts.append(f"left out {anomalies:,} anomalies, {new.removed:,} of which were held-out rows")
    if new.incomplete:
        parts.append(f"left out {new.incomplete:,} normal rows with missing cells, which no held-out row has")
    return f"{'; '.join(parts)}\n{before:,} → {rows:,} held-out rows: the smallest p-value is {1 / (rows + 1):.2g}"
