"""Inputs: files of rows, read piece by piece from any row on. One class for each kind of file.

    .npy                                    one array, its first axis counting rows
    .parquet                                a table's columns by name; images as fixed-size lists, `instances`
    .csv, .tsv, plain or .gz                UTF-8, with a header: a table's columns by name
    a folder, or .png, .jpg, .jpeg          pictures, in the order of their names; or files of the kinds above

Paths are local, or URLs of a file system that fsspec knows.

This module must not know about models, engines or what becomes of the rows.
"""

import csv
import io
import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, ClassVar, Protocol

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from fsspec.core import url_to_fs

from service.bulk.columns import parse_columns
from service.bundle import Array, ImageInput, TabularInput
from service.codecs.arrow import read_array
from service.codecs.codec import PICTURE_READERS, Reader
from service.codecs.instances import parse_instances
from service.errors import FileError, InvalidError, RequestError

DELIMITERS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
LARGEST_RECORD = 2**24
"""Bytes of a text file that are read at once; no row may be longer."""

FIELD = "instances"


@dataclass(frozen=True, eq=False)
class Piece:
    """Some rows in their order.

    Attributes:
        x: As the graphs take them, (batch, *shape).
        names: Of the pictures that they are, if they are pictures.
    """

    x: Array
    names: list[str] | None = None

    def first(self, rows: int) -> "Piece":
        """At most so many of them."""
        return self if rows >= len(self.x) else Piece(self.x[:rows], self.names and self.names[:rows])


class Input(Protocol):
    """Rows in a file, or in several that belong together.

    Attributes:
        path: Of the file.
        seeks: Whether a row is found without reading all those before it.
    """

    path: str
    seeks: ClassVar[bool]

    def count(self) -> int:
        """How many rows there are. A text file is read once for that."""

    def read(self, start: int, rows: int) -> Iterator[Piece]:
        """The rows from `start` on, at most so many at a time.

        Raises:
            FileError: The file cannot be read, or a row is no instance of the model's data; names the place.
        """


def open_inputs(paths: Sequence[str], data: ImageInput | TabularInput) -> list[Input]:
    """What the paths lead to, in their order.

    Raises:
        FileError: One leads nowhere, to nothing that can be read, or to a file without the model's columns.
    """
    found: list[Input] = []
    for path in paths:
        files = _files(path)
        pictures = [file for file in files if _suffix(file) in PICTURES]
        if pictures and len(pictures) < len(files):
            raise FileError(f"{path}: pictures and other files in one folder; give them apart")
        if pictures:
            found.append(Pictures(path, pictures, data))
        for file in [] if pictures else files:
            name = file.lower()
            if name.endswith(".npy"):
                found.append(Npy(file, data))
            elif name.endswith(".parquet"):
                found.append(Parquet(file, data))
            elif name.endswith(tuple(DELIMITERS)):
                found.append(Text(file, data))
            else:
                known = ", ".join((".npy", ".parquet", *DELIMITERS, *PICTURES))
                raise FileError(f"{file}: its name ends in none of {known}")
    return found


def read_from(inputs: Sequence[Input], start: int, rows: int) -> Iterator[Piece]:
    """The rows of all inputs from the one numbered `start` on, at most so many at a time.

    Raises:
        FileError: See `Input.read`.
    """
    for source in inputs:
        if start and start >= (count := source.count()):
            start -= count
            continue
        yield from source.read(start, rows)
        start = 0


class Npy:
    """An array of instances in a `.npy` file."""

    seeks: ClassVar[bool] = True

    def __init__(self, path: str, data: ImageInput | TabularInput) -> None:
        self.path = path
        self._data = data
        with _reading(path), fsspec.open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            if version not in {(1, 0), (2, 0)}:
                raise ValueError(f"format {version} of .npy is not read")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self._shape, fortran, self._dtype = read(file)
            self._begin = file.tell()
        if fortran and len(self._shape) > 1:
            raise FileError(f"{path}: in Fortran's order, in which rows do not lie together")
        if not self._shape or self._dtype.hasobject or self._dtype.names is not None:
            raise FileError(f"{path}: must hold an array of numbers, not {self._dtype} of shape {self._shape}")

    def count(self) -> int:
        return int(self._shape[0])

    def read(self, start: int, rows: int) -> Iterator[Piece]:
        shape, dtype = self._shape[1:], self._dtype
        size = dtype.itemsize * int(np.prod(shape, dtype=int))
        with _reading(self.path), fsspec.open(self.path, "rb") as file:
            file.seek(self._begin + start * size)
            for row in range(start, self.count(), rows):
                number = min(rows, self.count() - row)
                body = file.read(number * size)
                if len(body) < number * size:
                    raise FileError(f"{self.path}: cut off in row {row + len(body) // max(size, 1)}")
                values = np.frombuffer(body, dtype).reshape(number, *shape).astype(dtype.newbyteorder("="), copy=False)
                with _placed(self.path, row):
                    yield Piece(parse_instances(values, self._data))


class _Columns(ABC):
    """A file of columns with names."""

    seeks: ClassVar[bool]

    def __init__(self, path: str, data: ImageInput | TabularInput) -> None:
        self.path = path
        self._data = data
        self._wanted = list(data.features) if isinstance(data, TabularInput) else [FIELD]
        names = self._names()
        for name in self._wanted:
            if (times := names.count(name)) != 1:
                raise FileError(f"{path}: {times or 'no'} columns are named {name!r}; there are {', '.join(names)}")

    @abstractmethod
    def _names(self) -> list[str]:
        """Of the columns, in the order of the file."""

    @abstractmethod
    def _batches(self, start: int, rows: int) -> Iterator[pa.RecordBatch]:
        """The wanted columns from the row `start` on, in batches of about so many rows."""

    def read(self, start: int, rows: int) -> Iterator[Piece]:
        row = start
        with _reading(self.path):
            for batch in self._batches(start, rows):
                for first in range(0, batch.num_rows, rows):
                    part = batch.slice(first, rows)
                    with _placed(self.path, row):
                        x = self._parse(part)
                    yield Piece(x)
                    row += part.num_rows

    def _parse(self, batch: pa.RecordBatch) -> Array:
        if isinstance(self._data, TabularInput):
            return parse_columns(batch, self._data)
        values = read_array(pa.chunked_array([batch.column(FIELD)]))
        if values is None:
            raise InvalidError("must be fixed-size lists of numbers, without nulls", FIELD)
        return parse_instances(values, self._data)


class Parquet(_Columns):
    """A `.parquet` file."""

    seeks: ClassVar[bool] = True

    def _names(self) -> list[str]:
        with _reading(self.path), fsspec.open(self.path, "rb") as file:
            return list(pyarrow.parquet.read_schema(file).names)

    def count(self) -> int:
        with _reading(self.path), fsspec.open(self.path, "rb") as file:
            return int(pyarrow.parquet.read_metadata(file).num_rows)

    def _batches(self, start: int, rows: int) -> Iterator[pa.RecordBatch]:
        with fsspec.open(self.path, "rb") as opened, pyarrow.parquet.ParquetFile(opened) as file:
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            ends = list(itertools.accumulate(groups))
            first = next((i for i, end in enumerate(ends) if end > start), len(groups))
            start -= ends[first - 1] if first else 0
            for batch in file.iter_batches(rows, list(range(first, len(groups))), columns=self._wanted):
                if start < batch.num_rows:
                    yield batch.slice(start)
                start = max(0, start - batch.num_rows)


class Text(_Columns):
    """A `.csv` or `.tsv` file, in which every cell is text."""

    seeks: ClassVar[bool] = False

    def _names(self) -> list[str]:
        with _reading(self.path), self._open() as file:
            header = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            return [name.strip() for name in next(csv.reader(header, delimiter=self._delimiter, strict=True), [])]

    @property
    def _delimiter(self) -> str:
        return next(mark for suffix, mark in DELIMITERS.items() if self.path.lower().endswith(suffix))

    def _open(self) -> IO[bytes]:
        opened: IO[bytes] = fsspec.open(self.path, "rb", compression="infer").open()
        return opened

    def count(self) -> int:
        return sum(batch.num_rows for batch in self._batches(0, 0))

    def _batches(self, start: int, rows: int) -> Iterator[pa.RecordBatch]:
        names = self._names()
        with _reading(self.path), self._open() as file:
            reader = pyarrow.csv.open_csv(
                file,
                # Several threads would not know the number of a wrong row.
                pyarrow.csv.ReadOptions(
                    use_threads=False, block_size=LARGEST_RECORD, column_names=names, skip_rows_after_names=1
                ),
                pyarrow.csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
                pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(self._wanted, pa.string()), include_columns=self._wanted
                ),
            )
            for batch in reader:
                if start < batch.num_rows:
                    yield batch.slice(start)
                start = max(0, start - batch.num_rows)


class Pictures:
    """Pictures, one a file."""

    seeks: ClassVar[bool] = True

    _readers: ClassVar[dict[str, Reader]] = {suffix: PICTURE_READERS[kind] for suffix, kind in PICTURES.items()}

    def __init__(self, path: str, files: Sequence[str], data: ImageInput | TabularInput) -> None:
        if not isinstance(data, ImageInput):
            raise FileError(f"{path}: pictures, where the model's data are rows of a table")
        self.path = path
        self._files = files
        self._data = data

    def count(self) -> int:
        return len(self._files)

    def read(self, start: int, rows: int) -> Iterator[Piece]:
        for first in range(start, len(self._files), rows):
            names = list(self._files[first : first + rows])
            yield Piece(np.concatenate([self._picture(name) for name in names]), names)

    def _picture(self, name: str) -> Array:
        with _reading(name), fsspec.open(name, "rb") as file:
            body = file.read()
        try:
            return parse_instances(self._readers[_suffix(name)].decode(body, FIELD), self._data)
        except RequestError as error:
            raise FileError(f"{name}: {error.detail}") from error


def _files(path: str) -> list[str]:
    """The file, or those below the folder that are not hidden, in the order of their names."""
    with _reading(path):
        system, bare = url_to_fs(path)
        if not system.isdir(bare):
            if not system.exists(bare):
                raise FileError(f"{path}: is not there")
            return [path]
        files = sorted(system.find(bare))
        visible = [file for file in files if not re.search(r"(^|/)[._]", file[len(bare.rstrip("/")) :])]
        if not visible:
            raise FileError(f"{path}: a folder without files")
        local = "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,))
        return visible if local else [system.unstrip_protocol(file) for file in visible]


def _suffix(path: str) -> str:
    return "." + path.lower().rpartition(".")[2]


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Let whatever goes wrong with a file name it."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, ImportError, csv.Error, pa.ArrowException) as error:  # Of those, fsspec's for a missing driver.
        raise FileError(f"{path}: cannot be read: {error}") from error


@contextmanager
def _placed(path: str, start: int) -> Iterator[None]:
    """Let what is wrong with a piece's row name the row in its file, from 1."""
    try:
        yield
    except InvalidError as error:
        place = re.match(rf"{FIELD}\[(\d+)\](.*)", error.location or "", re.DOTALL)
        where = f"row {start + int(place[1]) + 1}{place[2]}" if place else f"from row {start + 1} on"
        raise FileError(f"{path}: {where}: {error.detail}") from error
