"""Cells: from the columns of a table, texts or typed, to the numbers that the graphs take.

The manifest's column says how its cells are written. Cells that follow no rule are reported, not raised, so that a
caller can refuse all rows or mark the wrong ones.
"""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from service.bundle import CategoricalColumn, Category, Column, NumericColumn, TabularInput
from service.readers.numbers import parse_numbers
from service.readers.times import derive_columns, is_time, order_of, parse_times, seconds, takes

Cells = Any
"""A column: an Arrow array, chunked or not, or a list of what JSON has (numbers, texts, booleans, None)."""

FEW = 64
"""Cells of a list that are looked up one by one, which takes less time than making an Arrow array of them."""

FIRST_INEXACT = 2**53
"""The smallest whole number that float64 has and whose successor it lacks."""

Values = npt.NDArray[np.float64]

_NOUNS = {"clock": "a time", "elapsed": "a duration"}

_FORMULA = re.compile('^="([^"]*)"$')
"""How Excel is made to read digits as text: ="0001"."""

TOO_LARGE = "is too large a number"
"""What is wrong with infinite cells."""


@dataclass(frozen=True)
class CellProblem:
    """A cell that is no value of its column; it is NaN, as if missing, in the parsed rows.

    Attributes:
        row: Of the batch, from 0.
        column: Its name.
        detail: What is wrong, in words that follow the place.
        unseen: The cell is readable, but a category that training had not; else it cannot be read at all.
    """

    row: int
    column: str
    detail: str
    unseen: bool = False


def parse_table(columns: Mapping[str, Cells], data: TabularInput) -> tuple[Values, list[CellProblem]]:
    """Parse a batch of rows, and compute the columns that are derived from others.

    Args:
        columns: The cells of every column in `data.given`, each (N,); any others are passed over.
        data: The model's columns.

    Returns:
        The graphs' `x`, (N, columns), and the cells that could not be read, by row.
    """
    num_rows = len(columns[data.given[0]])
    x = np.empty((num_rows, len(data.columns)))
    problems: list[CellProblem] = []
    for i, column in enumerate(data.columns):
        if column.derived is None:
            x[:, i], found = parse_column(columns[column.name], column, data.missing)
            problems += found
    derive_columns(x, data)
    return x, sorted(problems, key=lambda problem: problem.row)


def parse_column(cells: Cells, column: Column, missing: Sequence[str]) -> tuple[Values, list[CellProblem]]:
    """Parse the cells of one column.

    Args:
        cells: (N,).
        column: Says how they are written.
        missing: Texts, in any case, that stand for a missing cell unless the column has them as a category.

    Returns:
        Numbers, seconds or category codes, (N,), NaN where a cell is missing or wrong; and the wrong cells.
    """
    if not isinstance(cells, pa.Array | pa.ChunkedArray):
        kinds = set(map(type, cells))
        if isinstance(column, NumericColumn) and kinds <= {float, type(None)}:
            return _finite(np.array(cells, np.float64), column)
        if not kinds <= {str, type(None)} or len(cells) <= FEW:
            return _parse_mixed(cells, column, missing)
        cells = _text_array(cells)
    cells = _plain_array(cells)
    if isinstance(column, CategoricalColumn):
        return _parse_categories(cells, column, missing)
    return _parse_numeric(cells, column, missing)


def _text_array(texts: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError:  # JSON can have lone surrogates, which UTF-8 cannot.
        plain = [text if text is None else text.encode(errors="backslashreplace").decode() for text in texts]
        return pa.array(plain, pa.large_string())


def trimmed(texts: pa.Array) -> pa.Array:
    """Cut off what is no part of a cell: white space, and Excel's ="..." around texts; gives large strings."""
    texts = pc.utf8_trim_whitespace(texts.cast(pa.large_string()))
    if not pc.any(pc.starts_with(texts, '="')).as_py():
        return texts
    return pc.replace_substring_regex(texts, _FORMULA.pattern, r"\1")


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def decoded(cells: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Bytes as texts where they are UTF-8, as Hive and Impala write texts to Parquet; other cells as they are."""
    if pa.types.is_binary(cells.type) or pa.types.is_large_binary(cells.type):
        with suppress(pa.ArrowInvalid):
            return cells.cast(pa.large_string())
    return cells


def is_missing(texts: pa.Array, missing: Sequence[str]) -> pa.Array:
    """Which texts stand for a missing cell; null where there is none."""
    markers = pa.array([marker.strip().lower() for marker in missing], pa.large_string())
    return pc.is_in(pc.utf8_lower(texts), value_set=markers)


def category_key(value: Category) -> tuple[type, Category]:
    """Make a key that tells true from 1 and "1" from 1, but not 1 from 1.0: JSON does not either."""
    is_float = type(value) is int and abs(value) < 2**64 and float(value) == value
    return (float, float(value)) if is_float else (type(value), value)


def decimals(cells: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Decimals as float64, each the nearest to what is written; Arrow's own cast may be the next but one."""
    return cells.cast(pa.string()).cast(pa.float64())


def _plain_array(cells: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array, of no dictionary, with trimmed texts and no decimals."""
    if isinstance(cells, pa.ChunkedArray):
        cells = cells.combine_chunks()
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if pa.types.is_decimal(cells.type):
        return decimals(cells)
    cells = decoded(cells)
    return trimmed(cells) if is_text(cells.type) else cells


def _parse_numeric(cells: pa.Array, column: NumericColumn, missing: Sequence[str]) -> tuple[Values, list[CellProblem]]:
    kind = cells.type
    noun = _NOUNS.get(column.time.order, "a date or time") if column.time else "a number"
    if is_text(kind):
        present = pc.if_else(is_missing(cells, missing), None, cells)
        parsed, readable = parse_times(present, column.time) if column.time else parse_numbers(present, column)
        values = to_numpy(parsed)
        wrong = np.flatnonzero(to_bool(pc.invert(readable)))
        unread = [CellProblem(int(row), column.name, f"{cells[int(row)].as_py()!r} is not {noun}") for row in wrong]
        values, infinite = _finite(values, column)
        return values, unread + infinite
    if column.time and is_time(kind) and takes(column.time.order, order_of(kind)):
        return to_numpy(seconds(cells)), []
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _finite(to_numpy(cells.cast(pa.float64(), safe=False)), column)
    return _of_wrong_type(cells, column, noun)


def _of_wrong_type(cells: pa.Array, column: Column, noun: str) -> tuple[Values, list[CellProblem]]:
    """All cells as NaN, and a problem for each that is not missing."""
    rows = np.flatnonzero(to_bool(pc.is_valid(cells)))
    detail = f"must be {noun}, not {cells.type}"
    return np.full(len(cells), np.nan), [CellProblem(int(row), column.name, detail) for row in rows]


def _finite(values: Values, column: NumericColumn) -> tuple[Values, list[CellProblem]]:
    """Make infinite numbers NaN, report them where they are wrong, and make -0.0 and 0.0 one value."""
    infinite = np.isinf(values)
    if not infinite.any():
        return values + 0.0, []
    rows = () if column.infinite_is_missing else np.flatnonzero(infinite)
    return np.where(infinite, np.nan, values) + 0.0, [CellProblem(int(row), column.name, TOO_LARGE) for row in rows]


def _parse_categories(
    cells: pa.Array, column: CategoricalColumn, missing: Sequence[str]
) -> tuple[Values, list[CellProblem]]:
    """Look up each distinct value once."""
    if not (is_text(cells.type) or pa.types.is_primitive(cells.type) or pa.types.is_null(cells.type)):
        return _of_wrong_type(cells, column, "one value")
    encoded = cells.dictionary_encode()
    look_up = _look_up(column, missing)
    distinct = encoded.dictionary.to_pylist()
    codes = np.array([look_up(value) for value in distinct] + [math.nan], np.float64)
    places = encoded.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False)
    values = codes[places]
    wrong = np.flatnonzero(np.isinf(values))
    found = [look_up.problem(int(row), distinct[places[row]]) for row in wrong]
    values[wrong] = np.nan
    return values, found


class _CategoryLookup:
    """From a value to its category's code; NaN where it is missing, infinite where it is unknown."""

    def __init__(self, column: CategoricalColumn, missing: Sequence[str]) -> None:
        self._column = column
        self._codes = {category_key(category): code for code, category in enumerate(column.categories)}
        self._kinds = {type(category) for category in column.categories}
        self._missing = {marker.strip().lower() for marker in missing}

    def __call__(self, value: Any) -> float:
        if (code := self._codes.get(category_key(value))) is not None:
            return code
        if isinstance(value, str):
            if str not in self._kinds and (code := self._codes.get(category_key(self._spelled(value)))) is not None:
                return code
            if value.lower() in self._missing:
                return math.nan
        elif isinstance(value, float) and math.isnan(value):
            return math.nan
        if self._column.infinite_is_missing and self._is_infinite(value):
            return math.nan
        return math.inf if self._column.other is None else self._codes[str, self._column.other]

    def problem(self, row: int, value: object) -> CellProblem:
        """Name the categories that are known."""
        if self._is_infinite(value):
            return CellProblem(row, self._column.name, TOO_LARGE)
        shown = ", ".join(repr(category) for category in self._column.categories[:8])
        more = ", ..." if len(self._column.categories) > 8 else ""
        given = repr(value).removesuffix(".0")  # Whole numbers in plain lists come as floats.
        detail = f"{given} is not a known category; known are {shown}{more}"
        return CellProblem(row, self._column.name, detail, unseen=True)

    def _is_infinite(self, value: object) -> bool:
        return isinstance(value, str | float) and self._spelled(str(value)) in {math.inf, -math.inf}

    def _spelled(self, text: str) -> Category:
        """The value that a text spells, where the categories are numbers or booleans."""
        if bool in self._kinds and text.lower() in {"true", "false"}:
            return text.lower() == "true"
        try:
            number = float(text)
        except ValueError:
            return text
        # Float64 lacks most whole numbers from here on.
        return int(text) if FIRST_INEXACT <= abs(number) < math.inf and text.lstrip("+-").isdecimal() else number


def _look_up(column: CategoricalColumn, missing: Sequence[str]) -> _CategoryLookup:
    """Find the lookup of a column; columns of true and false, and of 1 and 0, are equal but for their types."""
    return _make_lookup(column, tuple(map(type, column.categories)), tuple(missing))


@lru_cache(maxsize=4096)
def _make_lookup(column: CategoricalColumn, types: tuple[type, ...], missing: tuple[str, ...]) -> _CategoryLookup:
    return _CategoryLookup(column, missing)


def _parse_mixed(cells: Sequence[object], column: Column, missing: Sequence[str]) -> tuple[Values, list[CellProblem]]:
    """Parse what JSON can have, each cell by its own type."""
    if isinstance(column, CategoricalColumn):
        return _parse_mixed_categories(cells, column, missing)
    values = np.full(len(cells), np.nan)
    problems: list[CellProblem] = []
    texts = [row for row, cell in enumerate(cells) if isinstance(cell, str)]
    if texts:
        written = _text_array([cells[row] for row in texts])
        values[texts], found = parse_column(written, column, missing)
        problems += [CellProblem(texts[p.row], p.column, p.detail, p.unseen) for p in found]
    for row, cell in enumerate(cells):
        if cell is None or isinstance(cell, str):
            continue
        if isinstance(cell, bool) or not isinstance(cell, int | float):
            problems.append(CellProblem(row, column.name, f"must be a number, not {describe_value(cell)}"))
            continue
        try:
            values[row] = float(cell) + 0.0
        except OverflowError:
            values[row] = math.inf
        if math.isinf(values[row]):
            values[row] = math.nan
            if not column.infinite_is_missing:
                problems.append(CellProblem(row, column.name, TOO_LARGE))
    return values, problems


def _parse_mixed_categories(
    cells: Sequence[object], column: CategoricalColumn, missing: Sequence[str]
) -> tuple[Values, list[CellProblem]]:
    values = np.full(len(cells), np.nan)
    problems: list[CellProblem] = []
    look_up = _look_up(column, missing)
    for row, cell in enumerate(cells):
        if cell is None:
            continue
        if not isinstance(cell, bool | int | float | str):
            problems.append(CellProblem(row, column.name, f"must be one value, not {describe_value(cell)}"))
            continue
        value = _FORMULA.sub(r"\1", cell.strip()) if isinstance(cell, str) else cell
        code = look_up(value)
        if math.isinf(code):
            problems.append(look_up.problem(row, value))
        else:
            values[row] = code
    return values, problems


def describe_value(value: object) -> str:
    """Name the JSON type of a value, or the type of an Arrow column that is not read."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return str(value)[:100] if isinstance(value, pa.DataType) else "an object"


def to_numpy(numbers: pa.Array) -> Values:
    """Turn numbers into NumPy's float64, NaN where null."""
    return np.array(numbers.to_numpy(zero_copy_only=False), np.float64)


def to_bool(flags: pa.Array) -> npt.NDArray[np.bool_]:
    """Turn flags into NumPy's, false where null."""
    return np.asarray(flags.fill_null(False).to_numpy(zero_copy_only=False), np.bool_)
