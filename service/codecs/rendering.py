"""Rendering: from the arrays of a bundle's graphs to the values that clients receive."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from service.bundle import Array, CategoricalColumn, Category, Column, ImageInput, TabularInput
from service.readers.times import render_time


def render(columns: Mapping[str, Any], data: TabularInput) -> dict[str, Any]:
    """The columns of a table's answer, with those of rows and cells as records by column name."""
    records = {
        "instances": render_records,
        "feature_expected": render_records,
        "feature_log_likelihood": render_by_column,
        "feature_surprise": render_by_column,
    }
    return {name: records[name](x, data) if name in records else x for name, x in columns.items()}


def render_records(x: Array, data: TabularInput) -> list[dict[str, Category | None]]:
    """Rows of shape (batch, columns) as records of values by column name; a code of no category is None."""
    columns = [_cells(x[:, i], column) for i, column in enumerate(data.columns)]
    return [dict(zip(data.features, row, strict=True)) for row in zip(*columns, strict=True)]


def render_by_column(values: Array, data: TabularInput) -> list[dict[str, float]]:
    """A number for each cell, of shape (batch, columns), as records by column name."""
    return [dict(zip(data.features, row, strict=True)) for row in values.tolist()]


def _cells(values: Array, column: Column) -> list[Category | None]:
    if isinstance(column, CategoricalColumn):
        known = len(column.categories)
        return [column.categories[int(code)] if 0 <= code < known else None for code in values]
    if column.time is not None:
        return [render_time(value, column.time) for value in values.tolist()]
    return [float(value) for value in values]


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
