"""`lowerbound compare A B`: two models side by side on the same rows."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from service.bulk.strangest import plain
from service.bulk.whole import open_model, read_whole
from service.bundle import Array, Bundle, read_bundle
from service.cli import CommandOptions, parse
from service.engine import Device
from service.errors import FileError
from service.readers.labels import read_labels
from service.scoring import FALSE_ALARMS, ElboQuery, Martingale

SHOWN = 10
"""Rows that are shown."""

LEVEL = 0.05


class Comparing(CommandOptions):
    """Compare two models, or two versions of one, on rows that neither was trained on.

    Examples:
      lowerbound compare models/payments/1 models/payments/2 --data june.csv
      lowerbound compare models/payments/1 models/cards/1 --data june.csv --labels labels.csv --key payment_id

    Each model reads the columns that it was trained on, and has its own default score. A table goes to standard output.
    """

    model_config = SettingsConfigDict(cli_prog_name="lowerbound compare")

    first: CliPositionalArg[Path] = Field(description="A bundle's folder, <repository>/<name>/<version>.")
    second: CliPositionalArg[Path] = Field(description="The other bundle's folder.")
    data: Path = Field(description="Rows: a file or folder as `lowerbound score` takes.")
    labels: Path | None = Field(
        default=None, description="A file .csv or .parquet with the column `label`, normal or anomaly, and the key."
    )
    key: str = Field(default="row", description="Column that names a row. row: its number; file: a picture's name.")
    device: Device = Field(default="auto", description="Where to compute; auto: CUDA if it works, else the CPU.")


@dataclass(frozen=True, eq=False)
class Scored:
    """The rows as one model sees them.

    Attributes:
        bundle: Of the model.
        keys: The rows' names.
        readable: Which rows it can read, bool (rows,).
        elbo: Nats, (rows,), NaN where it is not finite.
        score: The default score, infinite where it is not finite, (rows,).
        p_value: (rows,), NaN where a row has none.
    """

    bundle: Bundle
    keys: list[str]
    readable: Array
    elbo: Array
    score: Array
    p_value: Array

    def drift(self, rows: Array) -> float:
        """The largest capital of a gambler against these rows being as the held-out rows, see `Martingale`."""
        manifest = self.bundle.manifest
        gambler = Martingale(self.bundle.calibration[manifest.default_score])
        gambler.update(self.score[rows])
        return float(np.exp(min(gambler.log_maximum, 700.0)))


def main(arguments: list[str]) -> None:
    """Print the comparison.

    Raises:
        ValidationError: An option is wrong.
        LowerboundError: A bundle or a file cannot be used.
    """
    given = parse(Comparing, arguments)
    if given.labels is not None:
        read_labels(given.labels, given.key)  # A wrong file is refused before the rows are scored.
    first, second = (_score(folder, given) for folder in (given.first, given.second))
    labels = None if given.labels is None else read_labels(given.labels, given.key, first.keys)
    rows = np.flatnonzero(first.readable & second.readable)
    if rows.size < 2:
        raise FileError(f"{given.data}: fewer than two rows that both models can read")
    console = Console(soft_wrap=True)
    console.print(_figures(first, second, rows, labels))
    ranks = np.array([rankdata(-one.score[rows]) for one in (first, second)])
    correlation = float(np.corrcoef(ranks)[0, 1]) if ranks.std(axis=1).all() else float("nan")
    left = len(first.keys) - rows.size
    note = f"; {left:,} other rows have a problem in one of them" if left else ""
    console.print(f"rank correlation {correlation:.3f} over {rows.size:,} rows{note}", highlight=False)
    console.print(_differing(first, second, rows, ranks))


def _score(folder: Path, given: Comparing) -> Scored:
    bundle = read_bundle(folder)
    file = read_whole(str(given.data), bundle.manifest.input, given.key)
    readable = np.ones(len(file.keys), bool)
    readable[list(file.unreadable)] = False
    if not readable.any():
        raise FileError(next(iter(file.unreadable.values())))
    with open_model(bundle, given.device) as run:
        made = run(lambda model: model.elbo(file.x[readable], ElboQuery(observe=False)))

    def spread(values: Array) -> Array:
        whole = np.full(len(readable), np.nan)
        whole[readable] = values
        return whole

    scores = np.where(np.isnan(made["score"]), np.inf, made["score"])
    return Scored(bundle, file.keys, readable, spread(made["elbo"]), spread(scores), spread(made["p_value"]))


def _figures(first: Scored, second: Scored, rows: Array, labels: dict[str, bool] | None) -> Table:
    both = (first, second)
    table = Table("", *(one.bundle.manifest.title for one in both))
    table.add_row("default score", *(one.bundle.manifest.default_score for one in both))
    table.add_row("held-out rows", *(f"{one.bundle.manifest.calibration.rows:,}" for one in both))
    table.add_row("mean elbo, nats", *(f"{np.nanmean(one.elbo[rows]):.3f}" for one in both))
    table.add_row("rows without a finite bound", *(f"{np.isnan(one.elbo[rows]).sum():,}" for one in both))
    alarms = [one.p_value[rows][~np.isnan(one.p_value[rows])] <= LEVEL for one in both]
    table.add_row(f"p-value at most {LEVEL:g}", *(f"{share.mean():.1%}" if share.size else "none" for share in alarms))
    table.add_row(f"evidence of drift (alarm at {1 / FALSE_ALARMS:g})", *(f"{one.drift(rows):.3g}" for one in both))
    if labels is not None:
        table.add_row("AUROC", *(_auroc(one, rows, labels) for one in both))
    return table


def _auroc(one: Scored, rows: Array, labels: dict[str, bool]) -> str:
    """Of the labelled rows: the share of pairs of an anomaly and a normal row in which the anomaly is stranger."""
    chosen = [row for row in rows.tolist() if one.keys[row] in labels]
    anomalous = np.array([labels[one.keys[row]] for row in chosen], bool)
    positives, negatives = int(anomalous.sum()), int((~anomalous).sum())
    if not positives or not negatives:
        return "none: labels of both kinds are needed"
    ranks = rankdata(one.score[chosen])
    area = (ranks[anomalous].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    return f"{area:.4f} ({positives:,} anomalies, {negatives:,} normal)"


def _differing(first: Scored, second: Scored, rows: Array, ranks: Array) -> Table:
    """The rows whose ranks lie furthest apart."""
    names = [one.bundle.manifest.title for one in (first, second)]
    table = Table("row", *(f"rank in {name}" for name in names), *(f"p-value in {name}" for name in names))
    table.title, table.title_justify = "The rows on which they differ most; rank 1 is the strangest", "left"
    for place in np.argsort(-np.abs(ranks[0] - ranks[1]), kind="stable")[:SHOWN].tolist():
        row = int(rows[place])
        p = (f"{one.p_value[row]:.3g}" for one in (first, second))
        table.add_row(plain(first.keys[row]), *(f"{rank[place]:,.0f}" for rank in ranks), *p)
    return table
