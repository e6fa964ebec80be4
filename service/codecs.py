"""Codecs: between bytes on the wire and arrays in memory, one class per media type.

This module must not know about HTTP, models or what the values mean.
"""

import io
import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import orjson
import simdjson
from PIL import Image

from service.bundle import Array
from service.errors import InvalidError, MalformedError

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
    """Writes one media type."""

    media_type: ClassVar[str]

    def encode(self, columns: Columns) -> bytes:
        """The bytes of an answer."""


class Json:
    """`{"instances": [...]}` in; one array per field out, NaN as null."""

    media_type: ClassVar[str] = "application/json"

    def decode(self, body: bytes, field: str) -> object:
        array = _regular_array(body, field)
        return self._decode_exactly(body, field) if array is None else array

    def _decode_exactly(self, body: bytes, field: str) -> object:
        """Whatever is in the body, or the exact reason why nothing is."""
        repeated: list[tuple[dict[str, Any], str]] = []

        def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            members = dict(pairs)
            if len(members) < len(pairs):
                ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
                repeated.append((members, key))
            return members

        try:
            document = json.loads(body.decode(), object_pairs_hook=unique, parse_constant=_refuse_constant)
        except UnicodeDecodeError as error:
            raise MalformedError(f"not UTF-8: {error.reason} at byte {error.start}") from error
        except RecursionError as error:
            raise MalformedError("not readable JSON: nested too deeply") from error
        except ValueError as error:
            raise MalformedError(f"not readable JSON: {error}") from error
        if repeated:
            members, key = repeated[0]
            raise MalformedError(f"the key {key!r} occurs twice", _place_of(members, document) or None)
        if not isinstance(document, dict) or document.keys() != {field}:
            raise InvalidError(f'must be an object with the one key "{field}"', "body")
        return document[field]

    def encode(self, columns: Columns) -> bytes:
        contiguous = {
            name: np.ascontiguousarray(values) if isinstance(values, np.ndarray) else values
            for name, values in columns.items()
        }
        return orjson.dumps(contiguous, option=orjson.OPT_SERIALIZE_NUMPY)


class Npy:
    """One NumPy array, format 1.0 or 2.0. An answer of several fields is a structured array with one record per row."""

    media_type: ClassVar[str] = "application/x-npy"

    def decode(self, body: bytes, field: str) -> object:
        buffer = io.BytesIO(body)
        try:
            version = np.lib.format.read_magic(buffer)
            shape, fortran, dtype = _HEADERS[version](buffer)
        except Exception as error:  # NumPy raises several kinds for damaged headers.
            raise MalformedError(f"not a readable .npy array: {error}") from error
        if dtype.hasobject:
            raise MalformedError("an .npy array of Python objects (pickled): send plain numbers")
        if dtype.names is not None or dtype.subdtype is not None or not shape:
            raise InvalidError(
                f"must be a plain array with one instance per entry, not {dtype} of shape {shape}", field
            )
        size, expected = len(body) - buffer.tell(), dtype.itemsize
        for length in shape:
            expected *= length
        if size != expected:
            raise MalformedError(f"not a readable .npy array: {size} bytes of data, {expected} expected")
        try:
            array = np.frombuffer(body, dtype, offset=buffer.tell()).reshape(shape, order="F" if fortran else "C")
        except (ValueError, TypeError) as error:  # Shapes and dtypes that a header can say and no array can have.
            raise MalformedError(f"not a readable .npy array: {error}") from error
        return array.astype(dtype.newbyteorder("="), order="C", copy=False)

    def encode(self, columns: Columns) -> bytes:
        arrays: list[Array] = list(columns.values())
        if len(arrays) == 1:
            table = np.ascontiguousarray(arrays[0])
        else:
            fields = [(name, array.dtype, array.shape[1:]) for name, array in columns.items()]
            table = np.empty(len(arrays[0]), fields)
            for name, array in columns.items():
                table[name] = array
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, table, allow_pickle=False)
        return buffer.getvalue()


class Png:
    """A picture: the only column is uint8 of shape (height, width) or (height, width, 3)."""

    media_type: ClassVar[str] = "image/png"

    def encode(self, columns: Columns) -> bytes:
        (pixels,) = columns.values()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        return buffer.getvalue()


READERS: dict[str, Reader] = {codec.media_type: codec for codec in (Json(), Npy())}
WRITERS: dict[str, Writer] = {codec.media_type: codec for codec in (Json(), Npy(), Png())}

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


_NUMBERS_AND_SPACE = b"0123456789+-.eE \t\r\n"
_MAX_DEPTH = 4  # batch, height, width, channels


def _regular_array(body: bytes, field: str) -> Array | None:
    """The array in `{field: ...}` if it is nested lists of numbers, all of one shape, and None for anything else.

    simdjson reads the numbers without making a Python object of each, but flattens nested lists silently. What is left
    of a body without its numbers and white space, its skeleton, must therefore be that of an array of some shape, byte
    for byte: nothing ragged, repeated or non-numeric has such a skeleton.
    """
    skeleton = body.translate(None, _NUMBERS_AND_SPACE)
    opening = f'{{"{field}":'.encode().translate(None, _NUMBERS_AND_SPACE)
    nesting = skeleton[len(opening) :]
    depth = len(nesting) - len(nesting.lstrip(b"["))
    if not 0 < depth <= _MAX_DEPTH:
        return None
    shape: list[int] = []
    unit = b""
    for level in range(depth):  # From the innermost lists outwards, how many units the first list of each level has.
        start, end = depth - level - 1, nesting.find(b"]" * (level + 1)) + level + 1
        shape.insert(0, (end - start - 1) // (len(unit) + 1))
        unit = b"[" + b",".join([unit] * shape[0]) + b"]"
    if skeleton != opening + unit + b"}":
        return None
    try:
        document: Any = simdjson.Parser().parse(body)
        flat: Array = np.frombuffer(document[field].as_buffer(of_type="d"))
    except (ValueError, KeyError, TypeError, RuntimeError):  # The last is a number of more than 64 bits.
        return None
    # An empty list and a list of one number have the same skeleton.
    return flat.reshape(shape) if flat.size == math.prod(shape) else None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _place_of(wanted: object, document: object) -> str | None:
    """Where in the document an object stands, as `instances[3]`; the empty string is the document itself."""
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
