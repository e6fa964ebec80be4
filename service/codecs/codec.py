"""Codecs: between bytes on the wire and arrays in memory, one class per media type."""

import io
import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Protocol

import numpy as np
import orjson
import simdjson
from PIL import Image

from service.bundle import Array
from service.codecs.arrow import read_stream, write_stream
from service.codecs.text import write_text
from service.errors import InvalidError, MalformedError, RequestError, TooLargeError
from service.readers.arrays import GZIP, NPY, ZIP, is_idx, plain_numbers, read_npy_header, read_sent_idx, read_sent_npz
from service.readers.files import TextBytes
from service.readers.pictures import MEDIA_TYPES, PictureBytes, is_picture

MAX_NESTED = 2**20
"""Most arrays, objects and members of objects in a JSON document. Each takes up to 200 bytes of memory and some
microseconds of the event loop, but as few as three bytes on the wire.
"""

Columns = Mapping[str, Any]
"""An answer: by field an array (or for JSON any list) whose entry i belongs to instance i."""


class Reader(Protocol):
    """Reads one media type."""

    media_type: ClassVar[str]

    def decode(self, body: bytes, field: str) -> object:
        """The values sent: an array, or nested lists; formats with named fields look for `field`.

        Raises:
            MalformedError: The bytes are not of this media type.
            InvalidError: They are, but do not hold `field`.
        """


class Writer(Protocol):
    """Writes one media type.

    Attributes:
        records: Whether rows of a table are given as records, with the names of their categories; else as numbers.
    """

    media_type: ClassVar[str]
    records: ClassVar[bool]

    def encode(self, columns: Columns) -> bytes:
        """The bytes of an answer."""


class Json:
    """`{"instances": [...]}` in; one array per field out, NaN as null."""

    media_type: ClassVar[str] = "application/json"
    records: ClassVar[bool] = True

    def decode(self, body: bytes, field: str) -> object:
        check_nested(body)
        array = regular_array(body, field)
        if array is not None:
            return array
        document = read_json(body)
        if not isinstance(document, dict) or document.keys() != {field}:
            raise InvalidError(f'must be an object with the one key "{field}"', "body")
        return document[field]

    def encode(self, columns: Columns) -> bytes:
        return orjson.dumps(columns, _contiguous, orjson.OPT_SERIALIZE_NUMPY)


class Npy:
    """One NumPy array, format 1.0 or 2.0. An answer of several fields is a structured array with one record per row.

    Texts out are Unicode, empty where there is none.
    """

    media_type: ClassVar[str] = "application/x-npy"
    records: ClassVar[bool] = False

    def decode(self, body: bytes, field: str) -> object:
        size = _header_size(body)
        try:
            shape, fortran, dtype = _read_header(body[:size])
        except InvalidError as error:
            raise InvalidError(error.detail, field) from error
        if dtype.hasobject:
            raise MalformedError("an .npy array of Python objects (pickled): send plain numbers")
        if not shape:
            raise InvalidError("must be a plain array with one instance per entry, not a single value", field)
        expected = math.prod(shape) * dtype.itemsize
        if len(body) - size != expected:
            raise MalformedError(f"not a readable .npy array: {len(body) - size} bytes of data, {expected} expected")
        try:
            array = np.frombuffer(body, dtype, offset=size).reshape(shape, order="F" if fortran else "C")
        except (ValueError, TypeError) as error:  # Shapes and dtypes that a header can say and no array can have.
            raise MalformedError(f"not a readable .npy array: {error}") from error
        return plain_numbers(array)

    def encode(self, columns: Columns) -> bytes:
        arrays = {name: x if isinstance(x, np.ndarray) else _texts(x) for name, x in columns.items()}
        first = next(iter(arrays.values()))
        if len(arrays) == 1:
            table = np.ascontiguousarray(first)
        else:
            table = np.empty(len(first), _record(tuple((name, x.dtype, x.shape[1:]) for name, x in arrays.items())))
            for name, array in arrays.items():
                table[name] = array
        return _write_header(table.dtype, table.shape) + table.tobytes()


class Arrow:
    """An Arrow IPC stream: fixed-size lists are an array, columns by name records; out, a column for each field."""

    media_type: ClassVar[str] = "application/vnd.apache.arrow.stream"
    records: ClassVar[bool] = True

    def decode(self, body: bytes, field: str) -> object:
        return read_stream(body, field)

    def encode(self, columns: Columns) -> bytes:
        return write_stream(columns)


class Csv:
    """Text with a header, read as the manifest says of files; out, a column for each number."""

    media_type: ClassVar[str] = "text/csv"
    records: ClassVar[bool] = True

    def decode(self, body: bytes, field: str) -> object:
        return TextBytes(body)

    def encode(self, columns: Columns) -> bytes:
        return write_text(columns)


class PictureFile:
    """A picture in any format that is read, whichever of their media types it is sent as."""

    media_type: ClassVar[str] = "image/png"

    def decode(self, body: bytes, field: str) -> object:
        return PictureBytes(body)


class AnyFile:
    """A file whose content says what it is: a picture, an IDX file, plain or gzipped, `.npy` or `.npz`."""

    media_type: ClassVar[str] = "application/octet-stream"

    def decode(self, body: bytes, field: str) -> object:
        if is_picture(body[:12]):
            return PictureBytes(body)
        if body.startswith(NPY):
            return Npy().decode(body, field)
        if body.startswith(ZIP):
            return read_sent_npz(body)
        if body.startswith(GZIP) or is_idx(body[:4]):
            return read_sent_idx(body)
        raise MalformedError("is no PNG, JPEG, WebP, TIFF, BMP or GIF picture, and no IDX, .npy or .npz file")


class Png:
    """A PNG picture, out: the only column is uint8 of shape (height, width) or (height, width, 3)."""

    media_type: ClassVar[str] = "image/png"
    records: ClassVar[bool] = False

    def encode(self, columns: Columns) -> bytes:
        (pixels,) = columns.values()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        return buffer.getvalue()


def read_json(body: bytes, *, constants: bool = False) -> Any:
    """A JSON document; with `constants`, NaN and the infinities are numbers.

    Raises:
        MalformedError: It is not JSON, or a key occurs twice in an object.
        TooLargeError: See `MAX_NESTED`.
    """
    check_nested(body)
    repeated: list[tuple[dict[str, Any], str]] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
            repeated.append((members, key))
        return members

    constant = float if constants else _refuse_constant
    try:
        document = json.loads(body.decode(), object_pairs_hook=unique, parse_constant=constant)
    except UnicodeDecodeError as error:
        raise MalformedError(f"not UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise MalformedError("not readable JSON: nested too deeply") from error
    except ValueError as error:
        raise MalformedError(f"not readable JSON: {error}") from error
    if repeated:
        members, key = repeated[0]
        raise MalformedError(f"the key {key!r} occurs twice", _place_of(members, document) or None)
    return document


CODECS = (Json(), Npy(), Arrow())
"""The codecs of every body and every answer, the preferred first."""

TABLE_CODECS = (Csv(),)
"""The codecs of every answer, and of bodies of instances."""

READERS: dict[str, Reader] = {codec.media_type: codec for codec in CODECS}
"""Readers of any field."""

FILE_READERS: dict[str, Reader] = {
    **{codec.media_type: codec for codec in TABLE_CODECS},
    **dict.fromkeys(MEDIA_TYPES, PictureFile()),
    AnyFile.media_type: AnyFile(),
}
"""Readers of instances only."""

WRITERS: dict[str, Writer] = {codec.media_type: codec for codec in (*CODECS, *TABLE_CODECS, Png())}

ANSWERS = tuple(codec.media_type for codec in (*CODECS, *TABLE_CODECS))
"""The media types of every answer."""


def _header_size(body: bytes) -> int:
    """Bytes up to the data, for the two versions of the format that plain arrays come in; 0 for anything else."""
    match body[:8]:
        case b"\x93NUMPY\x01\x00":
            return 10 + int.from_bytes(body[8:10], "little")
        case b"\x93NUMPY\x02\x00":
            return 12 + int.from_bytes(body[8:12], "little")
        case _:
            return 0


# Headers take longer to parse than a small array to compute with; clients send the same few.


@lru_cache(maxsize=256)
def _read_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype."""
    try:
        version = np.lib.format.read_magic(io.BytesIO(header))
        return read_npy_header(_dictionary(header, version))
    except RequestError:
        raise
    except Exception as error:  # NumPy raises several kinds for types that there are not.
        raise MalformedError(f"not a readable .npy array: {error}") from error


def _dictionary(header: bytes, version: tuple[int, int]) -> bytes:
    """What follows the length in a header."""
    size = _header_size(header)
    if not size:
        raise ValueError(f"format {version} is not read, (1, 0) and (2, 0) are")
    if size > len(header):
        raise ValueError(f"EOF: {len(header):,} bytes of header, {size:,} expected")
    return header[8 + 2 * version[0] :]


@lru_cache(maxsize=256)
def _write_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


@lru_cache(maxsize=256)
def _record(fields: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]) -> np.dtype[Any]:
    return np.dtype(list(fields))


def check_nested(body: bytes) -> None:
    """Refuse a document that would take far more memory than bytes, before any object is made of it."""
    if len(body) <= MAX_NESTED:
        return
    characters = np.frombuffer(body, np.uint8)
    nested = sum(int(np.count_nonzero(characters == character)) for character in b"[{:")  # Far faster than bytes.count.
    if nested > MAX_NESTED:
        raise TooLargeError(f"{nested:,} arrays, objects and members; at most {MAX_NESTED:,} are read as JSON", "body")


def regular_array(body: bytes, field: str) -> Array | None:
    """The array in `{field: ...}` if it is nested lists of numbers, all of one shape, and None for anything else.

    simdjson reads the numbers without making a Python object of each, but flattens nested lists silently. Therefore all
    lists of one level must be of one length, and no others may be in the body.
    """
    try:
        document: Any = simdjson.Parser().parse(body)
        shape, lists = _regular_shape(document[field])
        if len(document) != 1 or lists != body.count(b"["):
            return None
        flat: Array = np.frombuffer(document[field].as_buffer(of_type="d"))
        return flat.reshape(shape)
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError):  # The last: a number of more than 64 bits.
        return None


def _regular_shape(array: Any) -> tuple[list[int], int]:
    """The lengths of a list, of its first element, and so on; and how many lists there are down to that level.

    Raises:
        ValueError: Lists of one level differ in length.
        TypeError: Something beside lists is in a level above the last.
    """
    shape: list[int] = []
    lists = 0
    level = [array]
    while True:
        (length,) = set(map(len, level))
        shape.append(length)
        lists += len(level)
        if not isinstance(level[0][0], simdjson.Array):
            return shape, lists
        level = list(itertools.chain.from_iterable(level))


def _texts(values: Sequence[str | None]) -> Array:
    return np.array([text or "" for text in values])


def _contiguous(values: Array) -> Array:
    """What orjson asks for where it cannot write an array as it lies in memory."""
    return np.ascontiguousarray(values)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _place_of(wanted: object, document: object) -> str | None:
    """The place of an object in the document, as `instances[3]`; the empty string is the document itself."""
    stack = [("", document)]
    while stack:
        place, value = stack.pop()
        if value is wanted:
            return place
        if isinstance(value, dict):
            stack.extend((f"{place}.{key}" if place else key, member) for key, member in value.items())
        elif isinstance(value, list):
            stack.extend((f"{place}[{i}]", item) for i, item in enumerate(value))
    return None
