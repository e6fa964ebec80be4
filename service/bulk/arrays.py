"""Arrays: .npy, .npz and IDX files, whose first axis counts rows."""

import io
import math
from collections.abc import Iterator
from typing import IO

import fsspec
import numpy as np

from service.bulk.batches import Batch, parse_batch
from service.bundle import Array, ImageInput, TabularInput, read_npy_header
from service.errors import FileError
from service.readers.arrays import Levels, plain_numbers, read_idx, read_npy, read_npz
from service.readers.files import reading


class Npy:
    """An array of instances in a `.npy` file."""

    seeks = True

    def __init__(self, path: str, data: ImageInput | TabularInput) -> None:
        self.path = path
        self._data = data
        with reading(path), fsspec.open(path, "rb") as file:
            self._shape, self._fortran, self._dtype = read_npy_header(file)
            self._begin = file.tell()
        if not self._shape or self._dtype.hasobject:
            raise FileError(f"{path}: must hold an array of numbers, not {self._dtype} of shape {self._shape}")

    def count(self) -> int:
        return self._shape[0]

    def read(self, start: int, rows: int) -> Iterator[Batch]:
        with reading(self.path), fsspec.open(self.path, "rb") as file:
            # In Fortran's order a row does not lie together.
            whole = read_npy(file.read()) if self._fortran else None
            file.seek(self._begin + start * self._row_bytes)
            for row in range(start, self.count(), rows):
                number = min(rows, self.count() - row)
                values = self._rows(file, row, number) if whole is None else whole[row : row + number]
                yield parse_batch(plain_numbers(values), self._data, self.path, row)

    @property
    def _row_bytes(self) -> int:
        return self._dtype.itemsize * math.prod(self._shape[1:])

    def _rows(self, file: IO[bytes], row: int, number: int) -> Array:
        """The next rows of a file in C order."""
        body = file.read(number * self._row_bytes)
        if len(body) < number * self._row_bytes:
            raise FileError(f"{self.path}: cut off in row {row + len(body) // max(self._row_bytes, 1)}")
        return np.frombuffer(body, self._dtype).reshape(number, *self._shape[1:])


class WholeArray:
    """The array of an `.npz` file, or the pictures of an IDX file, plain or gzipped: read as a whole, at each look."""

    seeks = True

    def __init__(self, path: str, data: ImageInput | TabularInput) -> None:
        self.path = path
        self._data = data
        self._is_npz = path.lower().endswith(".npz")

    def _load(self) -> Array:
        with reading(self.path), fsspec.open(self.path, "rb") as file:
            body = file.read()
            return plain_numbers(read_npz(io.BytesIO(body))) if self._is_npz else read_idx(body)

    def count(self) -> int:
        return len(self._load())

    def read(self, start: int, rows: int) -> Iterator[Batch]:
        array = self._load()
        for row in range(start, len(array), rows):
            some = array[row : row + rows]
            yield parse_batch(some if self._is_npz else Levels(some), self._data, self.path, row)
