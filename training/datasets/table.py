"""Tables: CSV, TSV and Parquet files, with their schema inferred.

Text files have no types: every cell is read as text first, so that it is decided here what a number, a boolean or a
missing cell is, and a cell that spoils its column can be named.
"""

import csv
import gzip
import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Literal, NoReturn, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import rich.table
from pydantic import Field, PositiveInt
from rich.markup import escape

from service.bundle import CategoricalColumn, NumericColumn, TabularInput
from training.datasets.source import (
    DataError,
    Dataset,
    Source,
    allocate,
    as_labels,
    chunks,
    inexact,
    reading,
    require_path,
)

DELIMITERS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
NUMBER = r"^([+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|(?i:[+-]?inf(inity)?|nan))$"
WHOLE = r"^[+-]?\d+$"
CODE = r"^[+-]?(0\d|\d{16})"
DATE = r"^\d{4}-\d{2}-\d{2}([T ].*)?$"
LARGEST_RECORD = 2**26
"""Bytes; pyarrow refuses a longer row of a text file."""

Column = NumericColumn | CategoricalColumn
Values = npt.NDArray[np.float64]


class Table(Source):
    """A `.csv` or `.tsv` file (UTF-8, with a header; `.gz` or plain) or a `.parquet` file.

    Numbers are numeric columns, except that at most two distinct ones are a binary, hence categorical, column.
    Booleans and text are categorical, their categories sorted and of the type they have in the file. White space
    around the cells of a text file is no part of them.
    """

    kind: Literal["table"] = "table"
    drop: tuple[str, ...] = Field(default=(), description="Columns to leave out.")
    columns: dict[str, Literal["numeric", "categorical"]] = Field(
        default={}, description="Corrections of the inferred types."
    )
    max_categories: PositiveInt = Field(
        default=64, description="The most distinct values of a text column that is not declared categorical."
    )
    missing: tuple[str, ...] = Field(
        default=("", "NA", "NaN", "nan", "null", "None", "?"), description="Texts that stand for a missing cell."
    )

    def load(self, path: Path | None) -> Dataset:
        path = require_path(path)
        columns: list[Column] = []
        with _opened(path) as (found, num_rows, read):
            names = self._select(path, found, num_rows)
            by_column = allocate((len(names), num_rows), np.float64)
            for name, cells in zip(names, by_column, strict=True):
                column, cells[:] = self._encode(path, name, read(name))
                columns.append(column)
        rows = allocate((num_rows, len(names)), np.float64)
        for part in chunks(rows):
            rows[part] = by_column[:, part].T
        return Dataset(TabularInput(columns=tuple(columns)), rows)

    def load_labelled(self, path: Path | None, name: str) -> tuple[Dataset, npt.NDArray[np.bool_]]:
        """Labels are a column, which the rows are then without."""
        dataset = self.model_copy(update={"drop": tuple({*self.drop, name})}).load(path)
        path = require_path(path)
        with _opened(path) as (_, _, read):
            cells = self._type(path, name, read(name), None)
        if _is_text(cells.type):
            raise DataError(f"{path}, column {name!r}: texts are not labels of 0 and 1")
        return dataset, as_labels(path, name, _floats(cells), len(dataset.rows))

    def _select(self, path: Path, names: list[str], num_rows: int) -> list[str]:
        """Give the names of the columns that are not dropped, once they are known to be sound."""
        kept = [index for index, name in enumerate(names) if name not in self.drop]
        counts = Counter(names[index] for index in kept)
        for option, asked, known in (("drop", self.drop, names), ("columns", self.columns, counts)):
            if unknown := [name for name in asked if name not in known]:
                raise DataError(f"{path}: {option}: no column {unknown[0]!r} among {', '.join(known)}")
        if repeated := [name for name, count in counts.items() if count > 1]:
            raise DataError(f"{path}: {counts[repeated[0]]} columns are named {repeated[0]!r}")
        if "" in counts:
            raise DataError(f"{path}: column {names.index('') + 1} has no name; give it one, or drop ''")
        if not kept:
            raise DataError(f"{path}: no column is left")
        if not num_rows:
            raise DataError(f"{path}: no rows")
        return [names[index] for index in kept]

    def _encode(self, path: Path, name: str, cells: pa.ChunkedArray) -> tuple[Column, Values]:
        """Infer a column's schema, and give its cells (N,) as the graphs take them."""
        declared = self.columns.get(name)
        if pa.types.is_dictionary(cells.type):
            declared = declared or "categorical"
            cells = cells.cast(cells.type.value_type)
        cells = self._type(path, name, cells, declared)
        distinct = pc.unique(cells.drop_null())
        if not len(distinct):
            raise DataError(f"{path}, column {name!r}: every cell is missing; drop it")
        text = _is_text(cells.type)
        if declared is None and text and len(distinct) > self.max_categories:
            raise DataError(
                f"{path}, column {name!r}: {len(distinct)} distinct texts, more than max_categories "
                f"({self.max_categories}); drop it, or declare it categorical"
            )
        if declared == "categorical" or (declared is None and (text or len(distinct) <= 2)):
            categories = sorted(distinct.to_pylist())
            codes = pc.index_in(cells, value_set=pa.array(categories, cells.type))
            return CategoricalColumn(name=name, categories=tuple(categories)), _floats(codes)
        if pa.types.is_integer(cells.type):
            numbers = cells.fill_null(0).to_numpy()
            if (bad := inexact(numbers)).any():
                _refuse_inexact(path, name, int(np.argmax(bad)), str(numbers[np.argmax(bad)]))
        return NumericColumn(name=name), _floats(cells)

    def _type(self, path: Path, name: str, cells: pa.ChunkedArray, declared: str | None) -> pa.ChunkedArray:
        """Give cells as text, booleans, integers or finite float64, null where missing."""
        if _is_text(cells.type):
            cells = self._parse(path, name, cells, declared)
        elif pa.types.is_floating(cells.type) or pa.types.is_decimal(cells.type):
            cells = cells.cast(pa.float64())
        elif not (pa.types.is_boolean(cells.type) or pa.types.is_integer(cells.type) or pa.types.is_null(cells.type)):
            raise DataError(
                f"{path}, column {name!r}: {cells.type} is neither numbers nor categories; drop it, "
                "or store it as numbers or text and declare which"
            )
        if pa.types.is_floating(cells.type):
            # Adding zero makes -0.0 and 0.0 one value.
            cells = pc.if_else(pc.is_nan(cells), None, pc.add(cells, 0.0))
            if (row := pc.is_inf(cells).index(value=True).as_py()) >= 0:
                raise DataError(f"{_place(path, row, name)}: {cells[row]} is infinite")
        return cells

    def _parse(self, path: Path, name: str, cells: pa.ChunkedArray, declared: str | None) -> pa.ChunkedArray:
        """Give text with its missing cells null; numbers or booleans if that is what all cells spell."""
        untyped = path.suffix.lower() != ".parquet"
        if untyped:
            cells = pc.utf8_trim_whitespace(cells)
        cells = pc.if_else(pc.is_in(cells, value_set=pa.array(self.missing, cells.type)), None, cells)
        present = len(cells) - cells.null_count
        if not present:
            return cells

        is_number = pc.match_substring_regex(cells, NUMBER)
        broken = present - (pc.sum(is_number).as_py() or 0)
        nearly = 0 < broken <= max(1, present // 10) and broken < present - broken
        if broken and (declared == "numeric" or (declared is None and nearly)):
            row = is_number.index(value=False).as_py()
            advice = (
                "" if declared else ", as most of the column is; correct or blank it, or declare the column categorical"
            )
            raise DataError(f"{_place(path, row, name)}: {cells[row].as_py()!r} is not a number{advice}")
        if not broken:
            # Categories such as 007 or long identifiers are codes: as numbers, distinct ones could become one.
            codes = declared == "categorical" and pc.any(pc.match_substring_regex(cells, CODE)).as_py()
            return _numbers(path, name, cells) if declared == "numeric" or (untyped and not codes) else cells
        if untyped and pc.all(pc.match_substring_regex(cells, "^(?i:true|false)$")).as_py():
            return pc.equal(pc.utf8_lower(cells), "true")
        if declared is None and pc.all(pc.match_substring_regex(cells, DATE)).as_py():
            raise DataError(f"{path}, column {name!r}: dates are not numbers; drop it, or declare it categorical")
        return cells


def describe(dataset: Dataset) -> rich.table.Table:
    """Show a table's schema: every column's type, range or categories, and share of missing cells.

    Raises:
        TypeError: The dataset is of images.
    """
    if not isinstance(dataset.input, TabularInput):
        raise TypeError("only tables have columns to describe")
    view = rich.table.Table("column", "type", "values", rich.table.Column("missing", justify="right"))
    parts = [dataset.rows[part] for part in chunks(dataset.rows)]
    # NaN, a missing cell, is the least and the most only of nothing else.
    least, most = (edge.reduce([edge.reduce(part) for part in parts]) for edge in (np.fmin, np.fmax))
    missing = np.sum([np.isnan(part).sum(0) for part in parts], 0) / len(dataset.rows)
    for column, low, high, share in zip(dataset.input.columns, least, most, missing, strict=True):
        if isinstance(column, NumericColumn):
            values = f"{low:g} … {high:g}"
        else:
            shown = ", ".join(str(category) for category in column.categories[:5])
            values = shown + (f", … ({len(column.categories)} in all)" if len(column.categories) > 5 else "")
        view.add_row(escape(column.name), column.type, escape(values), f"{share:.1%}" if share else "")
    return view


@contextmanager
def _opened(path: Path) -> Iterator[tuple[list[str], int, Callable[[str], pa.ChunkedArray]]]:
    """Give the names of a table's columns, the number of its rows, and what reads a column of a name that is unique."""
    if path.suffix.lower() != ".parquet":
        table = _read_text(path)
        yield table.column_names, table.num_rows, table.column
        return
    with ExitStack() as stack:
        with reading(path):
            file = stack.enter_context(pyarrow.parquet.ParquetFile(path))

        def read(name: str) -> pa.ChunkedArray:
            with reading(path):
                return file.read([name]).column(name)

        yield file.schema_arrow.names, file.metadata.num_rows, read


def _read_text(path: Path) -> pa.Table:
    """Read a text table, every column as text."""
    _delimiter(path)
    with reading(path):
        _, header = next(_records(path), (0, []))
        if not header:
            raise DataError(f"{path}: empty")
        try:
            with _open(path) as file:
                table = pyarrow.csv.read_csv(
                    file,
                    pyarrow.csv.ReadOptions(block_size=LARGEST_RECORD),
                    pyarrow.csv.ParseOptions(delimiter=_delimiter(path), newlines_in_values=True),
                    pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string())),
                )
        except ValueError as error:
            _refuse_records(path)
            raise DataError(f"{path}: {error}") from error
        if any(pc.any(pc.match_substring(cells, "\n")).as_py() for cells in table.columns if _is_text(cells.type)):
            # A quote that nobody closed swallows the lines after it.
            _refuse_records(path)
    return table.rename_columns([name.strip() for name in table.column_names])


def _delimiter(path: Path) -> str:
    for suffix, delimiter in DELIMITERS.items():
        if path.name.lower().endswith(suffix):
            return delimiter
    raise DataError(f"{path}: the name ends in none of {', '.join(DELIMITERS)}, .parquet")


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Read the records of a text table but blank lines, each with the line it starts on, from 1."""
    with _open(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(text, delimiter=_delimiter(path), strict=True)
        line = 1
        try:
            for record in reader:
                if record:
                    yield line, record
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}, line {line}: {error}") from error


def _refuse_records(path: Path) -> None:
    """Raise a DataError that names the first record, if any, of another width, with an open quote or not UTF-8."""
    width = 0
    for row, (line, record) in enumerate(_records(path)):
        width = width or len(record)
        where = f"{path}, row {row} (line {line})" if row else f"{path}, header (line {line})"
        if len(record) != width:
            raise DataError(f"{where}: {len(record)} cells; the header has {width}")
        if any("\udc80" <= character <= "\udcff" for character in "".join(record)):
            raise DataError(f"{where}: not UTF-8")


def _place(path: Path, row: int, name: str) -> str:
    """Name a cell's place, as `people.csv, row 3 (line 4), column 'age'`; `row` counts from 0, the name from 1."""
    line = ""
    if path.suffix.lower() != ".parquet":
        line = next((f" (line {line})" for number, (line, _) in enumerate(_records(path)) if number == row + 1), "")
    return f"{path}, row {row + 1}{line}, column {name!r}"


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _numbers(path: Path, name: str, cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Parse as int64 if every cell is a whole number of that range, else float64."""
    cells = pc.replace_substring_regex(cells, r"^\+", "")
    whole = pc.match_substring_regex(cells, WHOLE)
    if pc.all(whole).as_py():
        try:
            return cells.cast(pa.int64())
        except pa.ArrowInvalid:
            pass
    long = pc.and_(whole, pc.greater(pc.utf8_length(cells), 15))
    for row in np.flatnonzero(long.fill_null(False).to_numpy()):
        if int(text := cells[int(row)].as_py()) != float(text):
            _refuse_inexact(path, name, int(row), text)
    return cells.cast(pa.float64())


def _refuse_inexact(path: Path, name: str, row: int, number: str) -> NoReturn:
    raise DataError(
        f"{_place(path, row, name)}: float64 cannot hold {number} exactly; drop the column, or declare it categorical"
    )


def _floats(cells: pa.ChunkedArray) -> Values:
    """Give numbers or booleans as float64, NaN where null."""
    return np.asarray(cells.cast(pa.float64(), safe=False).to_numpy(), np.float64)
