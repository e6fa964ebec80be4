"""NumPy's `.npy` files."""

import io
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from service.bundle import Array
from service.codecs.codec import Columns
from service.errors import InvalidError, MalformedError, RequestError
from service.readers.arrays import plain_numbers, read_npy_header


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


def _texts(values: Sequence[str | None]) -> Array:
    return np.array([text or "" for text in values])
