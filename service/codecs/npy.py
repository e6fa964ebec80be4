"""NumPy's `.npy` files."""

import io
from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, ClassVar

import numpy as np

from service.bundle import Array
from service.codecs.codec import Columns
from service.errors import InvalidError
from service.readers.arrays import plain_numbers, read_npy

_KIND = attrgetter("dtype", "shape")


class Npy:
    """One NumPy array, format 1.0 or 2.0. An answer of several fields is a structured array with one record per row.

    Texts out are Unicode, empty where there is none.
    """

    media_type: ClassVar[str] = "application/x-npy"
    records: ClassVar[bool] = False
    quick_bytes: ClassVar[int] = 2**20
    quick_numbers: ClassVar[int] = 2**20

    def decode(self, body: bytes, field: str) -> object:
        try:
            array = read_npy(body)
        except InvalidError as error:
            raise InvalidError(error.detail, field) from error
        return plain_numbers(array)

    def encode(self, columns: Columns) -> bytes:
        if set(map(type, columns.values())) != {np.ndarray}:
            columns = {name: x if isinstance(x, np.ndarray) else _texts(x) for name, x in columns.items()}
        if len(columns) == 1:
            column: Array = next(iter(columns.values()))
            return _write_header(column.dtype, column.shape) + column.tobytes()
        rows, dtype, header = _records(tuple(columns), tuple(map(_KIND, columns.values())))
        if rows == 1:  # Its fields one after the other: to fill a record takes twice as long.
            return header + b"".join([x.tobytes() for x in columns.values()])
        table = np.empty(rows, dtype)
        for name, array in columns.items():
            table[name] = array
        return header + table.tobytes()


@lru_cache(maxsize=256)
def _write_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


@lru_cache(maxsize=256)
def _records(
    names: tuple[str, ...], kinds: tuple[tuple[np.dtype[Any], tuple[int, ...]], ...]
) -> tuple[int, np.dtype[Any], bytes]:
    """The number, the type and the header of the records of such columns, whose kinds are their types and shapes."""
    dtype = np.dtype([(name, kind, shape[1:]) for name, (kind, shape) in zip(names, kinds, strict=True)])
    rows = kinds[0][1][0]
    return rows, dtype, _write_header(dtype, (rows,))


def _texts(values: Sequence[str | None]) -> Array:
    return np.array([text or "" for text in values])
