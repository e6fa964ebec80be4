"""Rows of one file in the terms of another's schema: a file of new rows need not show every category.

This module must not know about models or files' formats.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.bundle import CategoricalColumn, ImageInput, NumericColumn, TabularInput
from training.datasets.source import DataError, Dataset

Array = npt.NDArray[Any]


def aligned(dataset: Dataset, schema: ImageInput | TabularInput, path: Path | str) -> Array:
    """The rows as a model of this schema takes them, (N, *schema.shape); columns are found by name.

    Raises:
        DataError: They are not of this schema: names the column, and the value that is no category of it.
    """
    if dataset.input == schema:
        return dataset.rows
    if not isinstance(schema, TabularInput) or not isinstance(dataset.input, TabularInput):
        raise DataError(f"{path}: {_described(dataset.input)}, where the model takes {_described(schema)}")
    found = dict(zip(dataset.input.features, zip(dataset.input.columns, dataset.rows.T, strict=True), strict=True))
    if missing := [name for name in schema.features if name not in found]:
        raise DataError(f"{path}: no column {missing[0]!r}, which the model takes")
    return np.column_stack([_recoded(path, column, *found[column.name]) for column in schema.columns])


def _recoded(path: Path | str, wanted: NumericColumn | CategoricalColumn, column: Any, cells: Array) -> Array:
    """A column's cells, float64, NaN where missing, as the wanted column has them."""
    observed = ~np.isnan(cells)
    if isinstance(wanted, NumericColumn) and isinstance(column, NumericColumn):
        return cells
    values = cells[observed].tolist()
    if isinstance(column, CategoricalColumn):
        values = [column.categories[int(code)] for code in values]
    if isinstance(wanted, CategoricalColumn):
        codes = {category: code for code, category in enumerate(wanted.categories)}
        if unknown := [value for value in values if value not in codes]:
            raise DataError(f"{path}, column {wanted.name!r}: {unknown[0]!r} is no category that the model knows")
        values = [codes[value] for value in values]
    elif wrong := [value for value in values if isinstance(value, str | bool)]:
        raise DataError(f"{path}, column {wanted.name!r}: {wrong[0]!r} is not a number")
    recoded = np.full(len(cells), np.nan)
    recoded[observed] = values
    return recoded


def _described(data: ImageInput | TabularInput) -> str:
    if isinstance(data, TabularInput):
        return f"a table of {len(data.columns)} columns"
    return f"{data.dtype} images of shape {data.shape} in [{data.low:g}, {data.high:g}]"
