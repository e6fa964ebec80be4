"""Arrays: .npy, .npz and IDX files, whose first axis counts rows."""

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import IO

import fsspec
import numpy as np

from service.bulk.batches import Batch, parse_batch, reading
from service.bundle import Array, ImageInput, TabularInput
from service.errors import FileError
from service.readers.arrays import Levels, plain_numbers, read_idx, read_npz


class Npy:
    """An array of instances in a `.npy` file."""

    seeks = True

    def __init__(self, path: str, data: ImageInput | TabularInput) -> None:
        self.path = path
        self._data = data
        with reading(path), fsspec.open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            if version not in {(1, 0), (2, 0)}:
                raise ValueError(f"format {version} of .npy is not read")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self._shape, self._fortran, self._dtype = read(file)
            self._begin = file.tell()
        if not self._shape or self._dtype.hasobject or self._dtype.names is not None:
            raise FileError(f"{path}: must hold an array of numbers, not {self._dtype} of shape {self._shape}")

    def count(self) -> int:
        return int(self._shape[0])

    def read(self, start: int, rows: int) -> Iterator[Batch]:
        with reading(self.path), fsspec.open(self.path, "rb") as file:
            whole = self._columns_together(file) if self._fortran else None
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

    def _columns_together(self, file: IO[bytes]) -> Array:
        """All rows of a file in Fortran's order, in which a row does not lie together."""
        file.seek(0)
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
        return array


class _Whole(ABC):
    """An array that is read as a whole, at each look."""

    seeks = True

    def __init__(self, path: str, data: ImageInput | TabularInput) -> None:
        self.path = path
        self._data = data

    @abstractmethod
    def _array(self, body: bytes) -> Array:
        """The array in the file."""

    def _values(self, rows: Array) -> object:
        """Convert rows of the array to instances of the model."""
        return rows

    def _load(self) -> Array:
        with reading(self.path), fsspec.open(self.path, "rb") as file:
            array = self._array(file.read())
        if not array.ndim:
            raise FileError(f"{self.path}: must hold an array of rows, not one number")
        return array

    def count(self) -> int:
        return len(self._load())

    def read(self, start: int, rows: int) -> Iterator[Batch]:
        array = self._load()
        for row in range(start, len(array), rows):
            yield parse_batch(self._values(array[row : row + rows]), self._data, self.path, row)


class Idx(_Whole):
    """Pictures in an IDX file, plain or gzipped."""

    def _array(self, body: bytes) -> Array:
        return read_idx(body)

    def _values(self, rows: Array) -> object:
        return Levels(rows)


class Npz(_Whole):
    """An array of instances in an `.npz` file."""

    def _array(self, body: bytes) -> Array:
        return plain_numbers(read_npz(io.BytesIO(body)))
