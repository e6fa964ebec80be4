"""Bodies: from the bytes of a request to the arrays of a bundle's graphs, and from answers to bytes.

The size and kind of the bytes alone say whether reading or writing is slow, so that a caller can do it elsewhere. Each
function raises a `RequestError` where a body cannot be read, or an answer not be written as asked.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import compress
from operator import attrgetter

import numpy as np

from service.bundle import Array, ImageInput, NumericColumn, TabularInput
from service.codecs.child import LongBytes
from service.codecs.codec import Columns
from service.codecs.instances import has_categories, parse_latents, parse_rows
from service.codecs.json import Json, check_nested, read_json, regular_array
from service.codecs.npy import Npy
from service.codecs.pieces import PIECE, cut, find_array
from service.codecs.registry import ALL_READERS, FILE_READERS, WRITERS, AnyFile, Arrow, Csv, Png
from service.codecs.rendering import picture, render
from service.codecs.rows import Reading, Rows, moved
from service.codecs.text import TextRows, read_text
from service.errors import InvalidError, MalformedError, TooLargeError, suggest
from service.readers.arrays import NPY, Levels
from service.readers.columns import FIRST_INEXACT
from service.readers.files import TextBytes
from service.readers.pictures import is_picture, is_quick_picture

LONGEST_NUMBER = 64
"""Bytes of a number in JSON, with the white space around it."""

QUICK_MARKED = 2**14
"""Bytes of any body that is read within some ten milliseconds, where each wrong row or cell is put down."""

QUICK_ARRAY = Npy.quick_bytes
"""Bytes of an array of numbers that is read within some ten milliseconds, in a body of any type."""

QUICK_CELLS = 2**15
"""Cells of a table that are read within some ten milliseconds. A row of three bytes may leave out a thousand."""

QUICK_TEXTS = 64
"""Columns with texts for numbers that are read as soon."""

QUICK_FIELDS = 200
"""Columns of an answer in a format that has a field of its own for each, which takes more than its number."""

QUICK_HINTS = 5
"""Rows with a wrong column, for each of which the most similar one is found and named."""

SLOW = object()
"""In the place of values that take longer to decode."""

_SIZE = attrgetter("size")


def decode(body: bytes, media_type: str, field: str) -> object:
    """The values in a body, see `Reader.decode`."""
    return ALL_READERS[media_type].decode(body, field)


def decode_if_quick(body: bytes | LongBytes, media_type: str, field: str, *, mark: bool = False) -> object:
    """The values in a body, or `SLOW`; to `mark` each wrong row takes longer."""
    if isinstance(body, LongBytes):
        return SLOW
    size = len(body)
    if size <= _most_quick_bytes(body, media_type, mark=mark):
        return decode(body, media_type, field)
    if media_type == Json.media_type and size <= QUICK_ARRAY and not mark:
        array = regular_array(body, field)
        return SLOW if array is None else array
    return SLOW


def _most_quick_bytes(body: bytes, media_type: str, *, mark: bool) -> int:
    if media_type == AnyFile.media_type and body.startswith(NPY):
        media_type = Npy.media_type
    if media_type in FILE_READERS and is_picture(body[:12]):
        return len(body) if is_quick_picture(body) else 0
    quick = ALL_READERS[media_type].quick_bytes
    return min(quick, QUICK_MARKED) if mark else quick


def read_rows(body: bytes, media_type: str, data: ImageInput | TabularInput, reading: Reading, max_rows: int) -> Rows:
    """The instances in a body."""
    if media_type == Json.media_type and len(body) > PIECE and (start := find_array(body)) is not None:
        check_nested(body)
        return _read_long(body, start, data, reading, max_rows)
    return make_rows(decode(body, media_type, "instances"), body, media_type, data, reading, max_rows)


def _read_long(body: bytes, start: int, data: ImageInput | TabularInput, reading: Reading, max_rows: int) -> Rows:
    """The instances in a long JSON array, piece by piece."""
    parts: list[Rows] = []
    total = 0
    for place, piece in cut(body, start, PIECE + LONGEST_NUMBER * math.prod(data.shape)):
        part = b'{"instances":[%b]}' % piece
        try:
            values = decode(part, Json.media_type, "instances")
        except MalformedError as error:
            raise MalformedError(f"{error.detail}, in what begins at byte {place:,}", error.location) from error
        if parts and not len(values):  # type: ignore[arg-type]  # A list or an array.
            raise MalformedError(f"not readable JSON: a comma before the end, at byte {place:,}")
        try:
            parts.append(make_rows(values, part, Json.media_type, data, reading, max_rows, total).moved(total))
        except InvalidError as error:
            raise moved(error, total) from error
        total += parts[-1].total
    return Rows.joined(parts)


def read_rows_if_quick(
    body: bytes | LongBytes, media_type: str, data: ImageInput | TabularInput, reading: Reading, max_rows: int
) -> Rows | None:
    """The instances in a body, or None where they take longer."""
    values = decode_if_quick(body, media_type, "instances", mark=reading.mark)
    if isinstance(body, LongBytes) or values is SLOW:
        return None
    if isinstance(data, TabularInput) and not _is_quick_table(values, data, reading):
        return None
    return make_rows(values, body, media_type, data, reading, max_rows)


def _is_quick_table(values: object, data: TabularInput, reading: Reading) -> bool:
    wide = len(data.columns) > QUICK_TEXTS
    if not isinstance(values, list):
        return not (wide and isinstance(values, TextBytes))
    if len(values) * len(data.columns) > QUICK_CELLS:
        return False
    if reading.mark:
        names = set(data.given)
        wrong = [row.keys() for row in values if isinstance(row, dict) and not row.keys() <= names]
        if sum(not (reading.ignore_extra and names <= given) for given in wrong) > QUICK_HINTS:
            return False
    if not wide:
        return True
    numeric = [isinstance(column, NumericColumn) for column in data.columns if column.derived is None]
    rows = (
        row if isinstance(row, list) else map(row.get, data.given) for row in values if isinstance(row, dict | list)
    )
    return sum(isinstance(cell, str) for row in rows for cell in compress(row, numeric)) <= QUICK_TEXTS


def make_rows(
    values: object,
    body: bytes,
    media_type: str,
    data: ImageInput | TabularInput,
    reading: Reading,
    max_rows: int,
    before: int = 0,
) -> Rows:
    """The instances among the values that were decoded from a body; `before` rows were read before.

    Raises:
        TooLargeError: There are more rows.
    """
    if isinstance(values, TextBytes) and isinstance(data, TabularInput):
        values = read_text(values, data, max_rows - before)
    if isinstance(values, np.ndarray) and values.shape == data.shape and media_type == AnyFile.media_type:
        values = values[None]  # A file of one instance may leave out the axis of rows.
    rows = before + (len(values) if isinstance(values, np.ndarray | list | Levels | TextRows) else 0)
    if rows > max_rows:
        raise TooLargeError(
            f"{rows:,} rows or more; one request may ask for {max_rows:,} draws, rows × num_draws", "instances"
        )
    if (
        isinstance(values, np.ndarray)
        and media_type == Json.media_type
        and (has_categories(data) or (reading.mark and values.shape[1:] != data.shape))
    ):
        # In JSON a number stands for itself, as in records, not for a category's code; and each row may be marked.
        values = read_json(body)["instances"] if np.abs(values).max() >= FIRST_INEXACT else values.tolist()
    return parse_rows(values, data, reading)


def read_latents(body: bytes, media_type: str, latent_size: int) -> Array:
    """The latents in a body, (batch, latent_size), float32."""
    return parse_latents(decode(body, media_type, "latents"), latent_size)


def is_quick_answer(columns: Mapping[str, Array], media_type: str, rows: Rows | None) -> bool:
    """Whether an answer is written so soon that the event loop need not do anything else meanwhile."""
    most = WRITERS[media_type].quick_numbers
    if media_type in {Arrow.media_type, Csv.media_type} and any(
        values.size > QUICK_FIELDS * len(values) and (values.ndim == 2 or media_type == Csv.media_type)
        for values in columns.values()
    ):
        return False  # In Arrow a picture is one field.
    marked = 0 if rows is None else 8 * rows.total
    return marked <= Json.quick_numbers and sum(map(_SIZE, columns.values())) <= most


def write_answer(
    columns: dict[str, Array],
    media_type: str,
    data: ImageInput | TabularInput,
    rows: Rows | None = None,
    too_far: Array | None = None,
    fields: str | None = None,
) -> bytes:
    """The bytes of an answer; a picture shows the `instances` and nothing else.

    Args:
        columns: By field an array whose entry i belongs to instance i.
        media_type: One of `WRITERS`.
        data: The kind of data that the model was trained on.
        rows: What is wrong with some of the instances, if the columns answer any.
        too_far: See `Rows.answer`.
        fields: The columns to write, see `choose`.
    """
    shown: Columns = columns if rows is None or too_far is None else rows.answer(columns, too_far)
    if fields is not None:
        shown = choose(shown, fields)
    if isinstance(data, ImageInput) and media_type == Png.media_type:
        if "instances" not in shown:
            raise InvalidError("a picture shows the column 'instances'", "query.fields")
        shown = {"picture": picture(shown["instances"], data)}
    elif isinstance(data, TabularInput) and WRITERS[media_type].records:
        shown = render(shown, data)
    return WRITERS[media_type].encode(shown)


def choose(columns: Columns, fields: str) -> Columns:
    """The columns that a request asks for, in its order; their names have commas between.

    Raises:
        InvalidError: One of them is not in this answer.
    """
    names = fields.split(",")
    for name in names:
        if name not in columns:
            known = f"there are {', '.join(columns)}"
            raise InvalidError(f"this answer has no column {name!r}{suggest(name, columns)}; {known}", "query.fields")
    return {name: columns[name] for name in names}


def without_values(rows: Rows) -> Rows:
    """What an answer needs of the rows."""
    return replace(rows, x=rows.x[:0])
