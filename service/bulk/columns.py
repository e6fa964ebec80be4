"""Cells: from the columns of a file to a table's `x`, a whole column at a time.

In text files every cell is text: what a number or a category is, the model's columns say.

This module must not know where the columns come from.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from service.bundle import Array, CategoricalColumn, Category, Column, TabularInput
from service.codecs.instances import category_codes, category_key
from service.errors import InvalidError

MISSING = ("", "NA", "NaN", "nan", "null", "None", "?")
"""Texts that stand for a missing cell."""


def parse_columns(batch: pa.RecordBatch, data: TabularInput) -> Array:
    """The graphs' `x`, shape (batch, columns), for a batch with the model's columns; any others are passed over.

    Raises:
        InvalidError: Names the first offending cell of a column, as `instances[3].age`.
    """
    cells = np.empty((batch.num_rows, len(data.columns)))
    for i, column in enumerate(data.columns):
        values = batch.column(column.name)
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if _is_text(values.type):
            values = pc.utf8_trim_whitespace(values.cast(pa.large_string()))
            values = pc.if_else(pc.is_in(values, value_set=pa.array(MISSING, values.type)), None, values)
        parse = _codes if isinstance(column, CategoricalColumn) else _numbers
        cells[:, i] = parse(values, column)
    return cells


def _numbers(values: pa.Array, column: Column) -> npt.NDArray[np.float64]:
    if not (_is_text(values.type) or pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        if values.null_count == len(values):
            return np.full(len(values), np.nan)
        _refuse(pc.is_valid(values), values, column, "must be a number")
    try:
        numbers = values.cast(pa.float64(), safe=False)
    except pa.ArrowInvalid:
        _refuse(pa.array([not _is_number(value) for value in values.to_pylist()]), values, column, "is not a number")
        raise
    _refuse(pc.is_inf(numbers), values, column, "is not a finite number")
    return np.asarray(numbers.to_numpy(zero_copy_only=False), np.float64)


def _is_number(text: str | None) -> bool:
    try:
        return text is None or pa.scalar(text).cast(pa.float64()).is_valid
    except pa.ArrowInvalid:
        return False


def _codes(values: pa.Array, column: Column) -> npt.NDArray[np.float64]:
    """Positions among the categories, NaN where null: found once for each distinct value."""
    codes = category_codes(column) or {}
    encoded = values.dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    known = [codes.get(category_key(value)) for value in _spelled(distinct, column)]
    if None in known:
        wrong = pc.equal(encoded.indices, known.index(None))
        shown = ", ".join(repr(category) for _, category in list(codes)[:8])
        _refuse(wrong, values, column, f"is not a known category; known are {shown}")
    if not known:
        return np.full(len(values), np.nan)
    table = pa.array(known, pa.float64())
    return np.asarray(table.take(encoded.indices).to_numpy(zero_copy_only=False), np.float64)


def _spelled(distinct: list[Category], column: Column) -> list[Category]:
    """The values that texts spell, where the column's categories are numbers or booleans."""
    kinds = {type(category) for category in column.categories} if isinstance(column, CategoricalColumn) else set()
    return [value if str in kinds or not isinstance(value, str) else _value(value, kinds) for value in distinct]


def _value(text: str, kinds: set[type]) -> Category:
    if bool in kinds and text.lower() in {"true", "false"}:
        return text.lower() == "true"
    try:
        return float(text)
    except ValueError:
        return text


def _refuse(wrong: pa.Array, values: pa.Array, column: Column, problem: str) -> None:
    """Raise at the first True of `wrong`."""
    if (row := wrong.index(True).as_py()) >= 0:
        raise InvalidError(f"{values[row].as_py()!r} {problem}", f"instances[{row}].{column.name}")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
