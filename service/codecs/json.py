"""JSON documents, and the arrays in them."""

import itertools
import json
from collections import Counter
from typing import Any, ClassVar

import numpy as np
import orjson
import simdjson

from service.bundle import Array
from service.codecs.codec import Columns
from service.errors import InvalidError, MalformedError, TooLargeError

MAX_NESTED = 2**20
"""Most arrays, objects and members of objects in a JSON document. Each takes up to 200 bytes of memory and some
microseconds of the event loop, but as few as three bytes on the wire.
"""


class Json:
    """`{"instances": [...]}` in; one array per field out, NaN as null."""

    media_type: ClassVar[str] = "application/json"
    records: ClassVar[bool] = True
    quick_bytes: ClassVar[int] = 2**16
    quick_numbers: ClassVar[int] = 2**16

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
        # orjson itself writes contiguous arrays alone.
        return orjson.dumps(columns, np.ascontiguousarray, orjson.OPT_SERIALIZE_NUMPY)


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
        array = document[field]
        if not isinstance(array, simdjson.Array):
            return None
        shape, lists = _regular_shape(array)
        if len(document) != 1 or lists != body.count(b"["):
            return None
        flat: Array = np.frombuffer(array.as_buffer(of_type="d"))
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
