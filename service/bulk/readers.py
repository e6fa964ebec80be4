"""Inputs: files of rows, read piece by piece from any row on. One class for each kind of file.

    .npy, .npz, IDX (plain or .gz)          one array, its first axis counting rows
    .parquet                                a table's columns by name; images as fixed-size lists, `instances`
    .csv, .tsv, plain or .gz                UTF-8, with a header: a table's columns by name
    pictures                                one instance each; a folder's are one input, in the order of their names
    a folder                                files of the kinds above, at any depth

Paths are local, or URLs of a file system that fsspec knows.

This module must not know about models, engines or what becomes of the rows.
"""

import csv
import io
import itertools
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import IO, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from fsspec.core import url_to_fs

from service.bulk.arrays import Idx, Npy, Npz
from service.bulk.batches import FIELD, Batch, Input, parse_batch, reading
from service.bulk.pictures import Pictures, kind_of
from service.bundle import ImageInput, TabularInput
from service.codecs.arrow import read_array
from service.codecs.instances import mark_cells
from service.codecs.rows import MARKING, Marks
from service.errors import FileError
from service.readers import parse_table

DELIMITERS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
ARRAYS = (".npy", ".npz")
LARGEST_RECORD = 2**24
"""Bytes of a text file that are read at once; no row may be longer."""

NAMED = 3
"""Most files that a message names."""

logger = logging.getLogger("service.bulk")


def open_inputs(paths: Sequence[str], data: ImageInput | TabularInput) -> list[Input]:
    """What the paths lead to, in their order.

    Raises:
        FileError: One leads nowhere, to nothing that can be read, or to a file without the model's columns.
    """
    found: list[Input] = []
    for path in paths:
        files = _files(path, hidden="." if isinstance(data, ImageInput) else "._")
        rows = [file for file in files if file.lower().endswith((*ARRAYS, ".parquet", *DELIMITERS))]
        kinds = {file: kind_of(file) for file in files if file not in rows}
        pictures = [file for file, kind in kinds.items() if kind == "picture"]
        others = [file for file, kind in kinds.items() if kind is None]
        if isinstance(data, ImageInput) and (pictures or "idx" in kinds.values()):
            others += [file for file in rows if file.lower().endswith(tuple(DELIMITERS))]
            rows = [file for file in rows if file not in others]
            _tell_left_out(path, others, len(files))
        elif others and not pictures:
            known = ", ".join((*ARRAYS, ".parquet", *DELIMITERS))
            raise FileError(f"{others[0]}: is no picture or IDX file, and its name ends in none of {known}")
        if pictures:
            found.append(Pictures(path, pictures, data))
        found += [_open(file, data) for file in files if file in rows or kinds.get(file) == "idx"]
    return found


def _open(file: str, data: ImageInput | TabularInput) -> Input:
    name = file.lower()
    if name.endswith(".npy"):
        return Npy(file, data)
    if name.endswith(".npz"):
        return Npz(file, data)
    if name.endswith(".parquet"):
        return Parquet(file, data)
    if name.endswith(tuple(DELIMITERS)):
        return Text(file, data)
    return Idx(file, data)


def _tell_left_out(path: str, files: Sequence[str], count: int) -> None:
    """Log the files of a folder that hold no pictures: the first few by name."""
    if files:
        more = f" and {len(files) - NAMED:,} more" if len(files) > NAMED else ""
        names = ", ".join(file.rpartition("/")[2] for file in files[:NAMED])
        logger.warning(
            "%s: left out %d of %d files, which hold no pictures: %s%s", path, len(files), count, names, more
        )


def read_from(inputs: Sequence[Input], start: int, rows: int) -> Iterator[Batch]:
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


class _Columns(ABC):
    """A file of columns with names."""

    seeks: ClassVar[bool]

    def __init__(self, path: str, data: ImageInput | TabularInput) -> None:
        self.path = path
        self._data = data
        self._wanted = list(data.given) if isinstance(data, TabularInput) else [FIELD]
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

    def read(self, start: int, rows: int) -> Iterator[Batch]:
        row = start
        with reading(self.path):
            for batch in self._batches(start, rows):
                for first in range(0, batch.num_rows, rows):
                    part = batch.slice(first, rows)
                    yield self._parse(part, row)
                    row += part.num_rows

    def _parse(self, batch: pa.RecordBatch, start: int) -> Batch:
        if isinstance(self._data, TabularInput):
            marks = Marks()
            x, problems = parse_table({name: batch.column(name) for name in self._wanted}, self._data)
            mark_cells(problems, MARKING, marks)
            return Batch(x, path=self.path, start=start, marks=marks)
        values = read_array(pa.chunked_array([batch.column(FIELD)]))
        if values is None:
            raise FileError(f"{self.path}: {FIELD} must be fixed-size lists of numbers")
        return parse_batch(values, self._data, self.path, start)


class Parquet(_Columns):
    """A `.parquet` file."""

    seeks: ClassVar[bool] = True

    def _names(self) -> list[str]:
        with reading(self.path), fsspec.open(self.path, "rb") as file:
            return list(pyarrow.parquet.read_schema(file).names)

    def count(self) -> int:
        with reading(self.path), fsspec.open(self.path, "rb") as file:
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
        with reading(self.path), self._open() as file:
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
        with reading(self.path), self._open() as file:
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


def _files(path: str, hidden: str) -> list[str]:
    """The file, or those below the folder, in the order of their names, but where a name begins with a hidden mark."""
    with reading(path):
        system, bare = url_to_fs(path)
        if not system.isdir(bare):
            if not system.exists(bare):
                raise FileError(f"{path}: is not there")
            return [path]
        files = sorted(system.find(bare))
        visible = [
            file for file in files if not re.search(rf"(^|/)[{re.escape(hidden)}]", file[len(bare.rstrip("/")) :])
        ]
        if not visible:
            raise FileError(f"{path}: a folder without files")
        local = "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,))
        return visible if local else [system.unstrip_protocol(file) for file in visible]
