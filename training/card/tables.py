"""The card's sections that show rows of a table."""

from collections.abc import Iterator

import numpy as np

from service.bundle import Array, CategoricalColumn, Column, TabularInput
from training.card.inputs import CardInputs
from training.card.page import Bar, Cell, Number, Section, Table, percent

MOST_COLUMNS = 20
MOST_LATENTS = 6
STRANGE_ROWS = 5
STRANGE_COLUMNS = 8
LEAST = 0.05
"""Nats below which a column has no share in what is strange."""

MISSING = "missing"


def sections(inputs: CardInputs, data: TabularInput) -> Iterator[Section]:
    """Reconstructions, the strangest rows, samples and traversals."""
    yield _strangest(inputs, data)
    yield _reconstructions(inputs, data)
    yield _samples(inputs, data)
    yield _traversals(inputs, data)


def _strangest(inputs: CardInputs, data: TabularInput) -> Section:
    rows = inputs.strangest(STRANGE_ROWS)
    kl = inputs.explain(rows)["latent_kl"].sum(1)
    answer = inputs.surprise(rows)
    surprise, expected = answer["feature_surprise"], answer["feature_expected"]
    tables = []
    for i, row in enumerate(rows):
        order = [j for j in np.argsort(-surprise[i], kind="stable")[:STRANGE_COLUMNS] if surprise[i, j] > LEAST]
        lines: list[list[Cell]] = [
            [
                data.columns[j].name,
                _cell(inputs.test[row, j], data.columns[j]),
                _cell(expected[i, j], data.columns[j]),
                Bar(Number(float(surprise[i, j]), 3), 100 * surprise[i, j] / surprise[i, order[0]]),
            ]
            for j in order
        ]
        caption = inputs.describe(int(row), float(kl[i]))
        tables.append(Table(caption, ["column", "observed", "expected", "nats gained"], lines))
    return Section(
        "strangest",
        "The strangest test rows",
        "Of each, the columns that make it strange: by how many nats its ELBO rises when that cell alone is what the "
        "model expects there, given the row's other cells. Where cells predict each other either may be the odd one, "
        "and filling in either helps.",
        tables,
    )


def _reconstructions(inputs: CardInputs, data: TabularInput) -> Section:
    rows = inputs.ranked(3)
    expected = inputs.decode(inputs.encode(rows))
    lines: list[list[Cell]] = []
    for j, column in enumerate(data.columns[:MOST_COLUMNS]):
        line: list[Cell] = [column.name]
        for i, row in enumerate(rows):
            line += [_cell(inputs.test[row, j], column), _cell(expected[i, j], column)]
        lines.append(line)
    header = ["column"]
    for row in rows:
        header += [f"row {inputs.row_numbers[row]}", "expected"]
    return Section(
        "reconstructions",
        "Reconstructions",
        f"The most usual, the median and the strangest test row by {inputs.manifest.default_score}, each beside "
        "E[x|z] at the mean of its posterior." + _left_out(data),
        [Table("Observed and expected values.", header, lines)],
    )


def _samples(inputs: CardInputs, data: TabularInput) -> Section:
    real, drawn = inputs.test[inputs.usual], inputs.drawn
    lines: list[list[Cell]] = [
        [
            column.name,
            _spread(real[:, j], column),
            _spread(drawn[:, j], column),
            *(_cell(drawn[i, j], column) for i in range(3)),
        ]
        for j, column in enumerate(data.columns[:MOST_COLUMNS])
    ]
    return Section(
        "samples",
        "Prior samples",
        f"{len(drawn):,} rows drawn from the model (z from the prior, x from p(x|z)) beside {len(real):,} normal "
        "test rows: median and, in brackets, the 5th and 95th percentiles, or the shares of the commonest "
        "categories. The model fills every cell; of test rows the observed ones count." + _left_out(data),
        [Table("Columns of test rows and of draws.", ["column", "test rows", "draws", *("a draw",) * 3], lines)],
    )


def _traversals(inputs: CardInputs, data: TabularInput) -> Section:
    spread = np.array([_deviation(inputs.test[inputs.usual, j]) for j in range(len(data.columns))])
    categorical = np.array([isinstance(column, CategoricalColumn) for column in data.columns])
    lines: list[list[Cell]] = []
    for latent in inputs.latents[:MOST_LATENTS]:
        values = inputs.traversal(int(latent), 3)
        z = np.repeat(inputs.typical[None], 3, axis=0)
        z[:, latent] = values
        x = inputs.decode(z)
        change = np.where(categorical, x[0] != x[2], np.abs(x[2] - x[0]) / spread)
        for j in np.argsort(-change, kind="stable")[:4]:
            if change[j] > 0.1:
                column = data.columns[j]
                lines.append([f"{latent}: {column.name}", *(_cell(value, column) for value in x[:, j])])
    return Section(
        "traversals",
        "Latent traversals",
        "Expected values from the posterior mean of the test row of the median score, with one latent moved over "
        "three standard deviations of the aggregate posterior on either side. Of each of the "
        f"{min(MOST_LATENTS, len(inputs.latents))} most active latents, the columns that change most; latents "
        "that move no column by a tenth of its standard deviation are left out.",
        [Table("What latents change.", ["latent: column", "−3 deviations", "mean", "+3 deviations"], lines)],
    )


def _cell(value: float, column: Column) -> Cell:
    if np.isnan(value):
        return MISSING
    return str(column.categories[int(value)]) if isinstance(column, CategoricalColumn) else Number(float(value))


def _spread(values: Array, column: Column) -> str:
    present = values[~np.isnan(values)]
    if not present.size:
        return MISSING
    if isinstance(column, CategoricalColumn):
        shares = np.bincount(present.astype(int), minlength=len(column.categories)) / len(present)
        common = np.argsort(-shares, kind="stable")[:4]
        return ", ".join(f"{column.categories[code]} {percent(shares[code], 0)}" for code in common)
    low, middle, high = (Number(float(value), 3) for value in np.quantile(present, (0.05, 0.5, 0.95)))
    return f"{middle} [{low}, {high}]"


def _deviation(values: Array) -> float:
    present = values[~np.isnan(values)]
    return float(present.std()) or 1.0 if present.size else 1.0


def _left_out(data: TabularInput) -> str:
    more = len(data.columns) - MOST_COLUMNS
    return f" {more:,} further columns are not shown." if more > 0 else ""
