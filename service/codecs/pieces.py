"""Long JSON arrays in pieces, so that no more than one piece is ever Python objects."""

import re
from collections.abc import Iterator

import numpy as np

from service.errors import InvalidError, MalformedError, TooLargeError

PIECE = 2**20
"""Bytes of a piece, unless one element is longer."""

_HEAD, _TAIL = re.compile(rb'\s*\{\s*"instances"\s*:\s*\['), re.compile(rb"\s*\}\s*")
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_LONGEST_HEAD = 1024


def find_array(body: bytes) -> int | None:
    """The place of the first element of the array `instances`; None where that is no object's first member."""
    head = _HEAD.match(body, 0, _LONGEST_HEAD)
    return None if head is None else head.end()


def cut(body: bytes, start: int, longest: int) -> Iterator[tuple[int, bytes]]:
    """Cut the elements of an array, the only member of an object, into runs of whole elements without their brackets.

    The first element begins at `start`, and none may have more than `longest` bytes.

    Yields:
        Where in the body a run stands, and its bytes; what is between the commas is not looked at.

    Raises:
        MalformedError: The array has no end.
        TooLargeError: An element is too long.
        InvalidError: Something follows the array in the object.
    """
    size = PIECE
    while True:
        window = body[start : start + size]
        comma, end = _boundaries(window)
        if end is not None:
            yield start, window[:end]
            break
        if comma is not None:
            yield start, window[:comma]
            start, size = start + comma + 1, PIECE
        elif start + size >= len(body):
            raise MalformedError("not readable JSON: the array has no end")
        elif size > longest:
            raise TooLargeError(f"an instance of more than {longest:,} bytes, from byte {start:,} on", "body")
        else:
            size *= 2
    if not _TAIL.fullmatch(body, start + end + 1):
        raise InvalidError("must be an object with one key, of which an array is the value, and nothing else", "body")


def _boundaries(window: bytes) -> tuple[int | None, int | None]:
    """The last comma between two elements, if there is any, and where the array ends, if it does."""
    characters = np.frombuffer(_ESCAPED.sub(b"__", window) if b"\\" in window else window, np.uint8)
    outside = np.cumsum(characters == ord('"'), dtype=np.int32) % 2 == 0
    opening = outside & ((characters == ord("[")) | (characters == ord("{")))
    closing = outside & ((characters == ord("]")) | (characters == ord("}")))
    depth = np.cumsum(opening.astype(np.int8) - closing.astype(np.int8), dtype=np.int32)
    ends = np.flatnonzero(depth < 0)
    if len(ends):
        return None, int(ends[0])
    commas = np.flatnonzero(outside & (depth == 0) & (characters == ord(",")))
    return (int(commas[-1]) if len(commas) else None), None
