"""Rendering: from the arrays of a bundle's graphs to the values that clients receive."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from service.bundle import Array, CategoricalColumn, Category, Column, ImageInput, TabularInput
from service.readers.times import render_time


class Records(list[dict[str, Any]]):
    """Rows as records by column name.

    Attributes:
        possible: By name, values of every kind that a column may have, whichever are in these rows.
    """

    def __init__(self, values: Iterable[Sequence[Any]], possible: Mapping[str, Sequence[Category]]) -> None:
        super().__init__(dict(zip(possible, row, strict=True)) for row in values)
        self.possible = possible


def render(columns: Mapping[str, Any], data: TabularInput) -> dict[str, Any]:
    """The columns of a table's answer, with those of rows and cells as records by column name."""
    records = {
        "instances": render_records,
        "feature_expected": render_records,
        "feature_log_likelihood": render_by_column,
        "feature_surprise": render_by_column,
    }
    return {name: records[name](x, data) if name in records else x for name, x in columns.items()}


def render_records(x: Array, data: TabularInput) -> Records:
    """Rows of shape (batch, columns) as records of values by column name; a code of no category is None."""
    columns = [_cells(x[:, i], column) for i, column in enumerate(data.columns)]
    return Records(zip(*columns, strict=True), {column.name: _possible(column) for column in data.columns})


def render_by_column(values: Array, data: TabularInput) -> Records:
    """A number for each cell, of shape (batch, columns), as records by column name."""
    return Records(values.tolist(), dict.fromkeys(data.features, (0.0,)))


def _cells(values: Array, column: Column) -> list[Category | None]:
    if isinstance(column, CategoricalColumn):
        known = len(column.categories)
        return [column.categories[int(code)] if 0 <= code < known else None for code in values]
    if column.time is not None:
        return [render_time(value, column.time) for value in values.tolist()]
    return [float(value) for value in values]


def _possible(column: Column) -> Sequence[Category]:
    if isinstance(column, CategoricalColumn):
        return column.categories
    return (0.0,) if column.time is None else ("",)


def picture(x: Array, data: ImageInput) -> Array:
    """Instances of shape (batch, *data.shape) side by side in one picture, as square as can be, black from low to high.

    Marked ones, which are NaN, are black.

    Returns:
        uint8, shape (rows × height, columns × width[, 3]).
    """
    shades = np.clip(np.nan_to_num((x - data.low) / (data.high - data.low)), 0, 1)
    tiles = np.round(255 * shades).astype(np.uint8).reshape(len(x), *data.shape[:2], -1)
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    height, width, channels = tiles.shape[1:]
    tiles = np.concatenate([tiles, np.zeros((rows * columns - len(tiles), height, width, channels), np.uint8)])
    grid = tiles.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels).squeeze(-1 if channels == 1 else ())
