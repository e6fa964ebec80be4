"""Instances: from the values that clients send to the arrays of a bundle's graphs.

Clients send raw data, in the units of the training file. Images are nested arrays of pixel values. Rows of a table are
records by column name or lists in column order, with `null` for a missing value. A value that the model's data cannot
have is refused with its place, or its row is marked and the others are read.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any

import numpy as np

from service.bundle import Array, CategoricalColumn, ImageInput, TabularInput
from service.codecs.rows import Marks, Reading, Rows
from service.codecs.text import TextRows
from service.errors import InvalidError, RequestError, suggest
from service.readers import CellProblem, describe_value, parse_table
from service.readers.arrays import Levels
from service.readers.files import TextBytes
from service.readers.pictures import Picture, PictureBytes, in_data_units

Marked = dict[int, InvalidError] | None
"""The errors of rows, by their number; None: the first error is raised."""


def parse_rows(values: object, data: ImageInput | TabularInput, reading: Reading) -> Rows:
    """The rows among what a client sent, with what is wrong with single ones where `reading` has that put down.

    Raises:
        InvalidError: Names the first wrong value, as `instances[3][17]` or `instances[3].age`. Where rows are marked,
            it is wrong with all of them.
    """
    marks = Marks()
    return Rows.among(parse_marked(values, data, reading, marks), marks, reading)


def parse_marked(values: object, data: ImageInput | TabularInput, reading: Reading, marks: Marks) -> Array:
    """All rows sent, as `parse_rows` reads them, (batch, *data.shape); rows that `marks` lists hold any values."""
    wrong = marks.unreadable if reading.mark else None
    match data:
        case ImageInput():
            if isinstance(values, PictureBytes):
                return parse_picture(values.body, data, 0, wrong)
            if isinstance(values, TextBytes):
                raise InvalidError("must be pictures, not rows of a table", "instances")
            if isinstance(values, Levels):
                return in_data_units(_check_array(values.values, data.shape, "instances"), data)
            if not isinstance(values, np.ndarray):
                values = _numbers(values, data.shape, "instances", wrong)
            return _check_pixels(_check_array(values, data.shape, "instances"), data, wrong)
        case TabularInput():
            if isinstance(values, PictureBytes | Levels):
                raise InvalidError("must be rows of this model's table, not pictures", "instances")
            if isinstance(values, np.ndarray):
                return _check_cells(_check_array(values, data.shape, "instances"), data, wrong)
            if isinstance(values, TextRows):
                columns = _text_columns(values, data, reading, wrong)
            else:
                columns = _columns(values, data, reading, wrong)
            x, problems = parse_table(columns, data)
            mark_cells(problems, reading, marks)
            return x


def parse_picture(body: bytes, data: ImageInput, row: int, marked: Marked) -> Array:
    """A picture file as the instance of that number, (1, *data.shape); what is wrong with it is raised, or `marked`."""
    try:
        return Picture(body).instances(data)
    except RequestError as error:
        if marked is None:
            raise
        marked[row] = InvalidError(error.detail, f"instances[{row}]")
        return np.zeros((1, *data.shape), data.dtype)


def parse_latents(values: object, latent_size: int) -> Array:
    """The graphs' `z`, shape (batch, latent_size), float32, for what a client sent.

    Raises:
        InvalidError: Names the first offending value, as `latents[3][17]`.
    """
    numbers = values if isinstance(values, np.ndarray) else _numbers(values, (latent_size,), "latents")
    latents = _check_array(numbers, (latent_size,), "latents")
    with np.errstate(over="ignore"):
        narrow = latents.astype(np.float32)
    return _refuse(~np.isfinite(narrow), narrow, "is not a finite number in float32", name="latents")


def _numbers(values: object, shape: tuple[int, ...], name: str, marked: Marked = None) -> Array:
    """Nested lists of plain numbers as float64; NumPy does the work, and Python finds the place when it cannot.

    What is wrong with an entry is raised, or `marked` by its number, and zeros are in its place.
    """
    if not isinstance(values, list) or not values:
        raise InvalidError("must be a non-empty array", name)
    try:
        array = np.array(values if _only_numbers(values) else [])
    except (ValueError, OverflowError):
        array = np.array([])
    # A ragged list makes no array, or one of objects, as numbers do that are too large for NumPy.
    if array.dtype.kind not in "iuf" or array.shape != (len(values), *shape):
        array = np.zeros((len(values), *shape))
        for i, value in enumerate(values):
            with _marking(marked, i):
                array[i] = _row(value, shape, f"{name}[{i}]")
    return array


def _row(value: Any, shape: tuple[int, ...], place: str) -> Any:
    """An entry that is of the shape, which NumPy finds out faster than Python where it is."""
    if isinstance(value, list) and _only_numbers(value):
        try:
            row = np.array(value)
        except (ValueError, OverflowError):
            row = np.array([])
        if row.dtype.kind in "iuf" and row.shape == shape:
            return row
    _check_nested(value, shape, place)
    return value


def _only_numbers(values: Sequence[Any]) -> bool:
    """NumPy would take a bool for 0 or 1, and widen every number to the length of the longest string."""
    stack: list[Any] = list(values)
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif type(item) not in {int, float}:
            return False
    return True


def _check_nested(value: object, shape: tuple[int, ...], place: str) -> None:
    """Raise at the first place where `value` is not nested lists of numbers of this shape."""
    if not shape:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidError(f"must be a number, not {describe_value(value)}", place)
        try:
            float(value)
        except OverflowError as error:
            raise InvalidError("is too large a number", place) from error
    elif not isinstance(value, list):
        raise InvalidError(f"must be an array of {shape[0]} values, not {describe_value(value)}", place)
    elif len(value) != shape[0]:
        raise InvalidError(f"must have {shape[0]} values, not {len(value)}", place)
    else:
        for i, item in enumerate(value):
            _check_nested(item, shape[1:], f"{place}[{i}]")


def _check_array(array: Array, shape: tuple[int, ...], name: str) -> Array:
    """Refuse an array of anything but numbers, or of another shape, as `_check_nested` would the same nested lists."""
    if array.dtype.kind not in "iuf":
        raise InvalidError(f"must hold real numbers, not {array.dtype}", name)
    if not array.ndim:
        raise InvalidError("must be an array of instances, not a number", name)
    if not len(array):
        raise InvalidError("must hold at least one instance", name)
    if array.shape[1:] == shape:
        return array
    for axis, size in enumerate(shape, start=1):
        place = name + "[0]" * axis
        if axis == array.ndim:
            raise InvalidError(f"must be an array of {size} values, not a number", place)
        if array.shape[axis] != size:
            raise InvalidError(f"must have {size} values, not {array.shape[axis]}", place)
    raise InvalidError("must be a number, not an array", name + "[0]" * (len(shape) + 1))


def _check_pixels(pixels: Array, data: ImageInput, marked: Marked) -> Array:
    if data.dtype == "uint8" and pixels.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            levels = pixels.astype(np.uint8)
        # All are whole and in the type's range; narrow numbers compare faster.
        if np.count_nonzero(levels == pixels) == pixels.size:
            pixels = levels
    if pixels.dtype == data.dtype == "uint8" and data.low == 0 and data.high == 255:  # Whatever the type holds.
        return pixels
    readable = data.dtype == "float32" or pixels.dtype.kind != "f"
    if readable and data.low <= pixels.min() and pixels.max() <= data.high:  # No NaN compares so.
        return pixels.astype(data.dtype, copy=False)
    if pixels.dtype.kind == "f":
        pixels = _refuse(~np.isfinite(pixels), pixels, "is not a finite number", data.low, marked)
    outside = (pixels < data.low) | (pixels > data.high)
    pixels = _refuse(outside, pixels, f"is outside [{data.low:g}, {data.high:g}]", data.low, marked)
    if data.dtype == "uint8" and pixels.dtype.kind == "f":
        pixels = _refuse(pixels != np.floor(pixels), pixels, "is not a whole level", data.low, marked)
    return pixels.astype(data.dtype)


def _check_cells(rows: Array, data: TabularInput, marked: Marked) -> Array:
    """Rows given as numbers: codes stand for categories, NaN for missing values."""
    cells = np.add(rows, 0.0, dtype=np.float64)  # -0.0 becomes 0.0, as in records and files.
    for i, column in enumerate(data.columns):
        values = cells[:, i]
        if isinstance(column, CategoricalColumn):
            known = np.isin(values, np.arange(len(column.categories)))
            wrong, problem = ~(known | np.isnan(values)), f"is not a category code, 0 to {len(column.categories) - 1}"
        else:
            wrong, problem = np.isinf(values), "is not a finite number"
            if column.infinite_is_missing:
                values[wrong] = np.nan
                continue
        for row in np.flatnonzero(wrong).tolist():
            with _marking(marked, row):
                raise InvalidError(f"{values[row]!s} {problem}", f"instances[{row}].{column.name}")
    return cells


def _columns(values: object, data: TabularInput, reading: Reading, marked: Marked) -> Mapping[str, Any]:
    if not isinstance(values, list) or not values:
        raise InvalidError("must be a non-empty array", "instances")
    names, known = data.given, {*data.features, *data.dropped}
    rows: list[Sequence[object]] = []
    for i, record in enumerate(values):
        row: Sequence[object] = [None] * len(names)
        with _marking(marked, i):
            row = _in_order(record, names, known, f"instances[{i}]", ignore_extra=reading.ignore_extra)
        rows.append(row)
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _text_columns(values: TextRows, data: TabularInput, reading: Reading, marked: Marked) -> Mapping[str, Any]:
    if not len(values):
        raise InvalidError("must hold at least one row below the header", "instances")
    if values.extra is not None and not reading.ignore_extra:
        problem = f"is no column of this model{suggest(values.extra, data.given)}"
        raise InvalidError(problem, f"instances[0].{values.extra}")
    for row, detail in values.wrong.items():
        with _marking(marked, row):
            raise InvalidError(detail, f"instances[{row}]")
    return values.columns


def mark_cells(problems: Iterable[CellProblem], reading: Reading, marks: Marks) -> None:
    """Put down what is wrong with cells; behind one that makes its row unreadable, nothing counts.

    Raises:
        InvalidError: The first that is wrong, where rows are not to be marked.
    """
    for problem in problems:
        error = InvalidError(problem.detail, f"instances[{problem.row}].{problem.column}")
        if not problem.unseen or reading.unseen == "error":
            with _marking(marks.unreadable if reading.mark else None, problem.row):
                raise error
        elif reading.unseen == "mark" and problem.row not in marks.unreadable:
            marks.unseen.setdefault(problem.row, []).append(error)


def _in_order(
    record: object, names: Sequence[str], known: AbstractSet[str], place: str, *, ignore_extra: bool
) -> Sequence[object]:
    """The values of a row in the order of the columns."""
    if isinstance(record, dict):
        if not all(map(record.__contains__, names)):  # Readers of files leave out blanks around a header's names.
            exact = {name: record[name] for name in record if name in known}
            others = {name: name.strip() for name in record if name not in known}
            times = Counter(name for name in others.values() if name in known and name not in exact)
            if (twice := next((name for name in times if times[name] > 1), None)) is not None:
                raise InvalidError("stands there several times, with different blanks around it", f"{place}.{twice}")
            record = {plain: record[name] for name, plain in others.items()} | exact
        if not ignore_extra and (unknown := min(record.keys() - known, default=None)) is not None:
            raise InvalidError(f"is no column of this model{suggest(unknown, names)}", f"{place}.{unknown}")
        try:
            return [record[name] for name in names]
        except KeyError as error:
            (name,) = error.args
            problem = f"is absent; send null where the value is missing{suggest(name, record.keys() - set(names))}"
            raise InvalidError(problem, f"{place}.{name}") from None
    if not isinstance(record, list):
        raise InvalidError(f"must be a record or an array, not {describe_value(record)}", place)
    if len(record) != len(names):
        raise InvalidError(f"must have {len(names)} values, not {len(record)}", place)
    return record


def has_categories(data: ImageInput | TabularInput) -> bool:
    """Whether the rows are of a table with a categorical column."""
    return isinstance(data, TabularInput) and any(isinstance(column, CategoricalColumn) for column in data.columns)


def _refuse(
    wrong: Array, values: Array, problem: str, filler: float = 0.0, marked: Marked = None, name: str = "instances"
) -> Array:
    """The values, where none of them is wrong.

    The first wrong one of all is raised; or of each instance the first is `marked`, and the instance filled.
    """
    wrong = wrong.reshape(len(wrong), -1)
    rows = np.flatnonzero(wrong.any(axis=1))
    for row in rows.tolist():
        index = np.unravel_index(int(np.argmax(wrong[row])), values.shape[1:])
        place = f"{name}[{row}]" + "".join(f"[{i}]" for i in index)
        with _marking(marked, row):
            raise InvalidError(f"{str(values[row][index]).removesuffix('.0')} {problem}", place)
    if len(rows):
        values = values.copy()
        values[rows] = filler
    return values


@contextmanager
def _marking(marked: Marked, row: int) -> Iterator[None]:
    """Let what is wrong with a row be marked, if it is the first; where nothing is to be marked, be raised."""
    try:
        yield
    except InvalidError as error:
        if marked is None:
            raise
        # Another one, for this one refers to the frames that it came through, and so to all rows.
        marked.setdefault(row, InvalidError(error.detail, error.location))
