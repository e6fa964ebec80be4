"""Data sources: each gives a `Dataset`, all its rows with their schema, or a `FileError`."""

import hashlib
import math
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from fsspec.core import url_to_fs
from pydantic import BaseModel, ConfigDict

from service.bundle import ImageInput, TabularInput
from service.errors import FileError
from service.readers.files import refuse_pipe

IN_MEMORY = 2**30
"""Bytes of rows that are kept in memory; more stay on the disk, and are read as they are needed."""

CHUNK = 2**26
"""Bytes of rows that are looked at together."""

_RANGES: Any = {"columns": {"__all__": {"training_range"}}}
"""What a schema says of its training rows."""


@dataclass(frozen=True, eq=False)
class Excluded:
    """Rows that no model is trained or calibrated on, because the recipe says that they are anomalies."""

    rows: npt.NDArray[Any]
    """(M, *input.shape)."""
    numbers: npt.NDArray[np.int64]
    """Their numbers in the files, from 0, (M,)."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """All rows of a source, in data units."""

    input: ImageInput | TabularInput
    rows: npt.NDArray[Any]
    """(N, *input.shape), of dtype `input.dtype`; NaN is a missing cell of a table. A `numpy.memmap`: on the disk."""
    num_test: int = 0
    """The last `num_test` rows are the source's own test set."""
    levels: npt.NDArray[Any] | None = None
    """Grey levels in 255ths, uint8, in the shape of `rows`, where these are one black-and-white draw from them."""
    notes: tuple[str, ...] = ()
    """Conversions of the data that a user may not expect, as lines to print."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why each column of a table's file is what it is, or is left out, by its name."""
    numbers: npt.NDArray[np.int64] | None = None
    """The rows' numbers in the files, from 0, (N,), where some are excluded; else they count from 0."""
    names: tuple[str, ...] | None = None
    """The rows' files, (N,), where each is in one of its own."""
    excluded: Excluded | None = None
    """Rows for evaluation alone."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the schema (its JSON) and of the rows' dtype, shape and bytes in C order.

        How files become rows does not count: the rows do.
        """
        schema = self.input.model_dump_json(exclude={"reading": True, **_RANGES})
        digest = hashlib.sha256(f"{schema}\n{self.rows.dtype.str}{self.rows.shape}\n".encode())
        digest.update(np.ascontiguousarray(self.rows).data)
        return digest.hexdigest()


class Source(BaseModel, ABC):
    """Where data comes from and how to read it. The fields of a subclass are its options in a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str

    @abstractmethod
    def load(self, path: Path | None) -> Dataset:
        """Read the data at `path`, which is None for a source that needs no file.

        Raises:
            FileError: The data is absent, damaged, or not what this source reads.
        """

    def load_rows(self, path: Path | None, data: ImageInput | TabularInput) -> Dataset:
        """Read other data as rows of a model.

        Raises:
            FileError: As `load`; or they are no rows of that model.
        """
        dataset = self.load(path)
        absent = [name for name in data.features if name not in dataset.input.features]
        if absent and data.kind == dataset.input.kind == "tabular":
            raise FileError(f"{path}: no column {absent[0]!r}, which the model takes")
        if dataset.input.model_dump(exclude=_RANGES) != data.model_dump(exclude=_RANGES):
            raise FileError(f"{path}: {described(dataset.input)}, where the model takes {described(data)}")
        return dataset

    def for_other_rows(self) -> Self:
        """The source without options that are about rows of the training data alone."""
        return self

    def load_labels(self, path: Path | None, name: str) -> npt.NDArray[np.bool_]:
        """Read which of the rows that `load` gives are anomalies, (N,): the 0s and 1s kept there under `name`.

        Raises:
            FileError: This kind of data has no labels, or none of that name, or others than 0 and 1.
        """
        raise FileError(f"data of the kind {self.kind!r} has no labels")


def described(data: ImageInput | TabularInput) -> str:
    """In a few words for errors."""
    if isinstance(data, TabularInput):
        return f"a table of {len(data.columns)} columns"
    return f"{data.dtype} images of shape {data.shape} in [{data.low:g}, {data.high:g}]"


def require_path(path: Path | None) -> Path:
    """Return the path, for a source that can't do without.

    Raises:
        FileError: There is none, or nothing lies there, or a pipe or a device.
    """
    if path is None:
        raise FileError("this kind of data needs a path")
    if not path.exists():
        raise FileError(f"{path}: no such file or folder")
    if not path.is_dir():
        refuse_pipe(*url_to_fs(str(path)))
    return path


def allocate(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array to be filled: in memory, or in a file that goes with it where it has more than `IN_MEMORY` bytes.

    Raises:
        FileError: The disk has no room in its folder for temporary files.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(prefix="lowerbound-rows-") as file:
        # On a full disk, writing into a sparse file would end the process by a signal.
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            folder = tempfile.gettempdir()
            raise FileError(f"{folder}: no room for {size:,} bytes of rows: {error.strerror}") from error
        return np.memmap(file, dtype, "r+", shape=shape)


def chunks(rows: npt.NDArray[Any]) -> Iterator[slice]:
    """All of the rows (N, ...), some `CHUNK` bytes after the other."""
    size = max(1, CHUNK // max(1, rows[:1].nbytes))
    for start in range(0, len(rows), size):
        yield slice(start, start + size)


def as_labels(path: Path, name: str, values: npt.NDArray[Any], num_rows: int) -> npt.NDArray[np.bool_]:
    """Labels from an array of 0s and 1s (or booleans) of shape (N,) or (N, 1).

    Raises:
        FileError: It is of another shape, or holds other values.
    """
    if values.shape not in ((num_rows,), (num_rows, 1)):
        raise FileError(f"{path}: {name!r} of shape {values.shape} is not one label for each of {num_rows} rows")
    values = values.reshape(-1)
    if (wrong := ~np.isin(values, (0, 1))).any():
        row = int(np.argmax(wrong))
        raise FileError(f"{path}: {name}[{row}] = {values[row]} is neither 0 (normal) nor 1 (anomalous)")
    return values.astype(np.bool_)


def image_dataset(place: Path | str, rows: npt.NDArray[Any], high: float = 255, num_test: int = 0) -> Dataset:
    """Images (N, height, width) or (N, height, width, channels), uint8 or float32, whose values lie in [0, high].

    Raises:
        FileError: The array has another number of dimensions, a size of zero, or neither 1 nor 3 channels.
    """
    if rows.ndim not in (3, 4) or not rows.size:
        raise FileError(f"{place}: shape {rows.shape} is not (rows, height, width) or (rows, height, width, channels)")
    if rows.ndim == 4 and rows.shape[3] not in (1, 3):
        move = "; move them, by x.transpose(0, 2, 3, 1)" if rows.shape[1] in (1, 3) else ""
        raise FileError(
            f"{place}: shape {rows.shape} has {rows.shape[3]} channels; channels come last and are 1 or 3{move}"
        )
    schema = {"shape": rows.shape[1:], "dtype": rows.dtype.name, "low": 0, "high": high}
    return Dataset(ImageInput.model_validate(schema), rows, num_test)
