"""Tables in files: their columns by name, read in batches from any row on.

    Parquet                     typed columns; pandas' index is told by the metadata
    CSV and its like            a header, then rows; every cell is text

Which of the two a file is, its first bytes say. Either may be gzipped (text) or lie in a folder of parts, whose paths
may hold columns of their own, as `year=2026/`.
"""

import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar
from urllib.parse import unquote

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from service.bundle import TabularInput, TextFormat
from service.errors import FileError, suggest
from service.readers.files import Source, find_files, open_file, open_text, reading
from service.readers.parquet import open_parquet, pandas_columns
from service.readers.text import check_records, find_format, find_line, read_head, wrong_records

TABLE_SUFFIXES = (".parquet", ".csv", ".tsv", ".psv", ".txt")
COMPRESSED = (".gz", ".zst")
PARQUET = b"PAR1"
_NAMED = 5
"""Files that an error names."""

LARGEST_RECORD = 2**24
"""Bytes of a text file that are read at once; no row may be longer."""


class TableFile(ABC):
    """One file of a table.

    Attributes:
        path: Of the file.
        seeks: Whether a row is found without reading all those before it.
        names: Of its columns, in its order; they may repeat.
        index: The names of columns that are pandas' index, no data.
        categories: The names of columns that were categories in pandas.
        text: How it is written, where it is text.
        wrong: What is wrong with rows, from 0, that cannot be read; all their cells are null. Known as soon as the
            batch that has them is.
    """

    seeks: ClassVar[bool]
    names: list[str]
    index: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    text: TextFormat | None = None
    wrong: Mapping[int, str] = MappingProxyType({})

    def __init__(self, path: Source, stored: list[str]) -> None:
        self.path = path
        parts = re.findall(r"(?:^|/)([^/=]+)=([^/]*)(?=/)", str(path))
        partition = {unquote(name): unquote(value) for name, value in parts}
        self._stored = stored
        self._partition = {name: value for name, value in partition.items() if name not in stored}
        self.names = [*stored, *self._partition]

    @cached_property
    def num_rows(self) -> int:
        """How many rows there are. A text file is read once for that."""
        with reading(self.path):
            return sum(batch.num_rows for batch in self._read(self._stored[:1], 0, 0))

    @abstractmethod
    def _read(self, columns: Sequence[str], start: int, rows: int) -> Iterator[pa.RecordBatch]:
        """Those columns of the file itself."""

    def batches(self, columns: Sequence[str], start: int = 0, rows: int = 2**16) -> Iterator[pa.RecordBatch]:
        """Read columns, whose names must not repeat, from the row `start` on, at most `rows` at a time.

        Raises:
            FileError: The file cannot be read, or has no such column, or two of a name.
        """
        self.check(columns)
        inside = [name for name in columns if name not in self._partition]
        with reading(self.path):
            for whole in self._read(inside or self._stored[:1], start, rows):
                for first in range(0, whole.num_rows, rows):
                    batch = whole.slice(first, rows)
                    arrays = [self._constant(n, batch.num_rows) if n in self._partition else batch[n] for n in columns]
                    yield pa.RecordBatch.from_arrays(arrays, names=list(columns))

    def check(self, columns: Sequence[str]) -> None:
        """Refuse columns of which there is none, or of which there are several.

        Raises:
            FileError: Names the first.
        """
        for name in columns:
            if (times := self.names.count(name)) != 1:
                near = suggest(name, self.names) if not times else ""
                known = f"there are {', '.join(self.names[:20])}{', ...' if len(self.names) > 20 else ''}"
                raise FileError(f"{self.path}: {times or 'no'} columns are named {name!r}; {known}{near}")

    def place(self, row: int, column: str | None = None) -> str:
        """Name a place, as `people.csv, row 3 (line 4), column 'age'`; `row` counts from 0, the name from 1."""
        line = find_line(self.path, self.text, row) if self.text else None
        named = f"{self.path}, row {row + 1}" + (f" (line {line})" if line else "")
        return named if column is None else f"{named}, column {column!r}"

    def _constant(self, name: str, rows: int) -> pa.Array:
        value = self._partition[name]
        return pa.array([None if value == "__HIVE_DEFAULT_PARTITION__" else value] * rows, pa.string())


class ParquetFile(TableFile):
    """A Parquet file."""

    seeks: ClassVar[bool] = True

    def __init__(self, path: str) -> None:
        with reading(path), fsspec.open(path, "rb") as file, open_parquet(file) as parquet:
            schema = parquet.schema_arrow
            self._groups = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        self.num_rows = sum(self._groups)
        if min(self._groups, default=0) < 0:
            raise FileError(f"{path}: says that it has {self.num_rows:,} rows; write it anew")
        super().__init__(path, schema.names)
        self.index, self.categories = pandas_columns(schema.metadata or {})

    def _read(self, columns: Sequence[str], start: int, rows: int) -> Iterator[pa.RecordBatch]:
        with fsspec.open(self.path, "rb") as opened, open_parquet(opened) as file:
            ends = list(itertools.accumulate(self._groups))
            first = next((i for i, end in enumerate(ends) if end > start), len(ends))
            start -= ends[first - 1] if first else 0
            said, found = sum(self._groups[first:]), 0
            batches = file.iter_batches(rows, range(first, len(ends)), columns, use_threads=False)
            for batch in batches:
                for name, cells in zip(batch.schema.names, batch.columns, strict=True):
                    try:
                        cells.validate(full=True)  # Nothing else looks at texts' encoding.
                    except pa.ArrowInvalid as error:
                        raise FileError(f"{self.path}, column {name!r}: {error}; write the column anew") from error
                found += batch.num_rows
                if start < batch.num_rows:
                    yield batch.slice(start)
                start = max(0, start - batch.num_rows)
            if found != said:
                raise FileError(f"{self.path}: says that it has {said:,} rows, and has {found:,}; write it anew")


class TextFile(TableFile):
    """A CSV file or its like, in which every cell is text."""

    seeks: ClassVar[bool] = False
    text: TextFormat

    def __init__(self, path: Source, text: TextFormat) -> None:
        self.text = text
        self.head = read_head(path, text)
        super().__init__(path, self.head.names)

    def whole(self) -> pa.Table:
        """Read all columns of all rows; they are named by their numbers, because names may repeat.

        Raises:
            FileError: Rows have more or fewer cells than the header.
        """
        with reading(self.path):
            numbers = [str(number) for number in range(len(self._stored))]
            batches = list(self._numbered(numbers))
            if self.wrong:
                check_records(self.path, self.text)
            table = pa.Table.from_batches(batches, pa.schema([(number, pa.string()) for number in numbers]))
        for name in self._partition:
            table = table.append_column(str(self.names.index(name)), self._constant(name, table.num_rows))
        return table

    def _read(self, columns: Sequence[str], start: int, rows: int) -> Iterator[pa.RecordBatch]:
        numbers = [str(self.names.index(name)) for name in columns]
        row = 0
        for batch in _with_wrong_rows(self._numbered(numbers), self, numbers):
            if start < row + batch.num_rows:
                yield batch.slice(max(0, start - row)).rename_columns(list(columns))
            row += batch.num_rows

    def _numbered(self, numbers: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read these columns of all rows but the wrong ones."""
        if not self.head.has_rows:
            return
        checked, skipped = False, 0

        def skip(row: pyarrow.csv.InvalidRow) -> str:
            nonlocal skipped
            if row.text.strip():
                if not (skipped or self.wrong):
                    with suppress(FileError):  # It is raised at the end: Arrow would only print it.
                        self.wrong = wrong_records(self.path, self.text)
                skipped += 1
            return "skip"

        try:
            with open_text(self.path, self.text.encoding) as file:
                reader = pyarrow.csv.open_csv(
                    file,
                    # Several threads would not know the number of a wrong row.
                    pyarrow.csv.ReadOptions(
                        use_threads=False,
                        block_size=LARGEST_RECORD,
                        column_names=[str(number) for number in range(len(self._stored))],
                        skip_rows=self.head.line - 1,
                        skip_rows_after_names=1,
                        encoding=self.text.encoding,
                    ),
                    pyarrow.csv.ParseOptions(
                        delimiter=self.text.delimiter, newlines_in_values=True, invalid_row_handler=skip
                    ),
                    pyarrow.csv.ConvertOptions(
                        column_types=dict.fromkeys(numbers, pa.string()), include_columns=numbers
                    ),
                )
                for batch in reader:
                    if not checked and any(pc.any(pc.match_substring(cells, "\n")).as_py() for cells in batch.columns):
                        # A quotation mark that is not closed swallows the lines after it.
                        wrong_records(self.path, self.text)
                        checked = True
                    yield batch
        except (ValueError, pa.ArrowException) as error:
            check_records(self.path, self.text)
            raise FileError(f"{self.path}: {error}") from error
        if skipped != len(self.wrong):  # Which rows these are is not known, then.
            check_records(self.path, self.text)


def _with_wrong_rows(
    batches: Iterator[pa.RecordBatch], table: TextFile, numbers: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Put rows of nulls where rows of the file are wrong."""
    row = 0
    for batch in batches:
        gaps: list[int] = []
        for wrong in sorted(table.wrong):
            if row <= wrong < row + batch.num_rows + len(gaps):
                gaps.append(wrong - row)
        if gaps:
            taken = np.full(batch.num_rows + len(gaps), -1)
            gap = np.isin(np.arange(len(taken)), gaps)
            taken[~gap] = np.arange(batch.num_rows)
            batch = batch.take(pa.array(taken, mask=gap))  # noqa: PLW2901 - the same rows, and the wrong ones
        yield batch
        row += batch.num_rows
    if rest := sum(wrong >= row for wrong in table.wrong):
        yield pa.RecordBatch.from_arrays([pa.nulls(rest, pa.string())] * len(numbers), names=list(numbers))


def open_table(
    path: str, delimiter: str | None = None, encoding: str | None = None, like: TabularInput | None = None
) -> TableFile:
    """Open one file; see `find_format` for how text is written.

    Raises:
        FileError: It is no table.
    """
    with reading(path), open_file(path) as file:
        magic = file.read(4)
    if magic != PARQUET:
        return TextFile(path, find_format(path, delimiter, encoding, like))
    with reading(path), fsspec.open(path, "rb") as stored:
        if stored.read(4) != PARQUET:
            raise FileError(f"{path}: Parquet in a compressed file; unpack it, as Parquet is compressed inside")
    return ParquetFile(path)


def open_tables(path: str, delimiter: str | None, encoding: str | None, like: TabularInput | None) -> list[TableFile]:
    """Open a file, or all parts in a folder; see `open_table`.

    Raises:
        FileError: There is none, or one is no table, or has hardly a column of the first one.
    """
    files = find_files(path)
    if len(files) > 1 and (foreign := [file for file in files if not is_table(file)]):
        named, known = ", ".join(foreign[:_NAMED]), ", ".join(TABLE_SUFFIXES)
        raise FileError(
            f"{named}: no table, beside {len(files) - len(foreign)} others; a table's name ends in one of {known}; "
            f"{_apart(path, files)}"
        )
    tables = [open_table(file, delimiter, encoding, like) for file in files]
    first = tables[0]
    for table in tables[1:]:
        if 2 * len(set(first.names) & set(table.names)) < len(set(first.names)):
            columns = ", ".join(map(repr, sorted(set(first.names) ^ set(table.names))[:5]))
            raise FileError(f"{table.path}: other columns than {first.path}: {columns}; {_apart(path, files)}")
    return tables


def _apart(path: str, files: Sequence[str]) -> str:
    """What to do with a file that does not belong to the others."""
    suffix = next((suffix for suffix in TABLE_SUFFIXES if any(file.endswith(suffix) for file in files)), "")
    return f"move it away, or give the files of one table by a pattern such as '{path.rstrip('/')}/part-*{suffix}'"


def is_table(path: str) -> bool:
    """Whether a file's name is that of a table."""
    name = path.lower().rpartition("/")[2]
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return name.endswith(TABLE_SUFFIXES) or "." not in name
