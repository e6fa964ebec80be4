"""NumPy's `.npy` files."""

import io
from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, ClassVar

import numpy as np

from service.bundle import Array
from service.codecs.codec import Columns
from service.errors import InvalidError
from service.readers.arrays import plain_numbers, read_npy

_BOUND = np.dtype(np.float64)
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
        arrays = list(columns.values())
        if len(arrays) > 1 and _are_bounds(arrays):
            return _write_bounds_header(tuple(columns), len(arrays[0])) + np.array(arrays).tobytes("F")
        if set(map(type, columns.values())) != {np.ndarray}:
            columns = {name: x if isinstance(x, np.ndarray) else _texts(x) for name, x in columns.items()}
        if len(columns) == 1:
            (table,) = map(np.ascontiguousarray, columns.values())
        else:
            table = np.empty(*_records(tuple(columns), tuple(map(_KIND, columns.values()))))
            for name, array in columns.items():
                table[name] = array
        return _write_header(table.dtype, table.shape) + table.tobytes()


def _are_bounds(arrays: Iterable[object]) -> bool:
    """Whether all are float64, (batch,), as in most answers. Filling records field by field takes twice as long."""
    for x in arrays:  # noqa: SIM110 - a generator takes half as long again
        if type(x) is not np.ndarray or x.dtype is not _BOUND or x.ndim != 1:
            return False
    return True


@lru_cache(maxsize=256)
def _write_bounds_header(names: tuple[str, ...], rows: int) -> bytes:
    return _write_header(np.dtype([(name, _BOUND) for name in names]), (rows,))


@lru_cache(maxsize=256)
def _write_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


@lru_cache(maxsize=256)
def _records(
    names: tuple[str, ...], kinds: tuple[tuple[np.dtype[Any], tuple[int, ...]], ...]
) -> tuple[int, np.dtype[Any]]:
    """The number and the type of the records of such columns, whose kinds are their types and shapes."""
    fields = [(name, dtype, shape[1:]) for name, (dtype, shape) in zip(names, kinds, strict=True)]
    return kinds[0][1][0], np.dtype(fields)


def _texts(values: Sequence[str | None]) -> Array:
    return np.array([text or "" for text in values])
