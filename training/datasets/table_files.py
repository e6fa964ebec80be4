"""The files of a table as one, column by column."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from service.bundle import CategoricalColumn, Category, NumericColumn, TabularInput
from service.errors import FileError, suggest
from service.readers.columns import is_missing, trimmed
from service.readers.tables import TableFile, TextFile
from service.readers.text import CELL, find_letters

_LETTER = re.compile(r"[^\W\d_]")
_QUOTED = re.compile(r"""'.*'|".*"|‘.*’|“.*”""")


_READ_AHEAD = 2**18
"""Cells of a Parquet file that are read at once."""


class TableFiles:
    """Files of one table. Those of text are kept in memory, as text; of Parquet, one column at a time is.

    Attributes:
        path: What leads to them.
        tables: The files, in their order.
        names: Of the columns; they may repeat.
        lacking: A file that has no such column, for each column that is not in all files.
        index: Those of pandas' index.
        num_rows: N, of all files.
    """

    def __init__(self, path: str, tables: Sequence[TableFile]) -> None:
        self.path = path
        self.tables = tables
        self.names = list(tables[0].names)
        for table in tables[1:]:
            self.names += [name for name in table.names if name not in self.names]
        self.lacking = {name: table.path for table in tables for name in self.names if name not in table.names}
        self.index = {name for table in tables for name in table.index}
        self._texts = {table.path: table.whole() for table in tables if isinstance(table, TextFile)}
        self.num_rows = sum(map(self._rows, tables))
        self._ahead: tuple[TableFile, dict[str, list[pa.Array]]] = tables[0], {}

    def read(self, name: str) -> pa.ChunkedArray:
        """All cells of a column, (N,).

        Raises:
            FileError: A file has no such column, or one of another type.
        """
        chunks: list[pa.Array] = []
        firsts: dict[pa.DataType, str] = {}
        for table in self.tables:
            if name not in table.names:
                table.check([name])
            if table.path in self._texts:
                found = self._texts[table.path].column(str(table.names.index(name))).chunks
            else:
                found = self._stored(table, name)
            if name in table.categories:  # Parquet keeps the types of texts alone.
                found = [chunk.dictionary_encode() for chunk in found]
            chunks += found
            firsts = {chunk.type: str(table.path) for chunk in found} | firsts
        if len({chunk.type for chunk in chunks}) > 1:
            chunks = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in chunks]
            try:
                tables = [pa.table({name: chunk}) for chunk in chunks]
                return pa.concat_tables(tables, promote_options="permissive").column(0)
            except pa.ArrowException as error:
                parts = " and ".join(f"{kind} in {firsts[kind]}" for kind in sorted(firsts, key=str))
                raise FileError(f"{self.path}, column {name!r}: {parts}; write all parts in one type") from error
        return pa.chunked_array(chunks)

    def _stored(self, table: TableFile, name: str) -> list[pa.Array]:
        """A column's cells, read together with those after it where they are few.

        Each opening of a Parquet file takes time for all columns that it has.
        """
        table.check([name])
        if self._ahead[0] is not table or name not in self._ahead[1]:
            start = table.names.index(name)
            names = table.names[start : start + max(1, _READ_AHEAD // max(1, self._rows(table)))]
            names = [other for other in names if table.names.count(other) == 1]
            try:
                batches = list(table.batches(names))
            except FileError:  # The column that cannot be read may be one that is dropped.
                names, batches = [name], list(table.batches([name]))
            self._ahead = table, {other: [batch[other] for batch in batches] for other in names}
        return self._ahead[1].pop(name)

    def has_empty_nameless(self, missing: Sequence[str]) -> bool:
        """Whether all columns without a name, in text files, have missing cells alone."""
        for table in self.tables:
            if table.path not in self._texts:
                return False
            for number, name in enumerate(table.names):
                cells = self._texts[table.path].column(str(number))
                if not name and not pc.all(is_missing(trimmed(cells), missing)).as_py():
                    return False
        return True

    def place(self, row: int, column: str | None = None) -> str:
        """Name a row's or a cell's place, with the row in its file."""
        for table in self.tables:
            if row < (count := self._rows(table)):
                return table.place(row, column)
            row -= count
        raise IndexError(row)

    def notes(self, data: TabularInput, *, told: bool) -> Iterator[str]:
        """Say how the first file's text was read where that may be wrong; the user may have `told` the encoding."""
        table = self.tables[0]
        if not isinstance(table, TextFile):
            return
        if not told and table.text.encoding == "cp1252" and (seen := find_letters(table.path, table.text)):
            yield f"not UTF-8, and read as Windows-1252, as {seen!r}; if that is wrong, say --dataset.encoding"
        if quoted := [name for name in table.names if _QUOTED.fullmatch(name)]:
            yield f'the header has {quoted[0]} with its marks: only " quotes cells, without a blank before it'
        if table.head.line > 1:
            yield f"the header is line {table.head.line}; what is before it is no part of the table"
        values: dict[str, Collection[Category]] = {}
        # Letters above numbers are a name, so that the letters beside them are names, too.
        if not any(isinstance(column, NumericColumn) and _LETTER.search(column.name) for column in data.columns):
            values = {col.name: col.categories for col in data.columns if isinstance(col, CategoricalColumn)}
        if cells := [name for name in table.names if CELL.fullmatch(name) or name in values.get(name, ())]:
            yield f"the header may be a row, with {cells[0]!r}: a file without a header needs one"

    def check(self, asked: Collection[str], option: str, without: Mapping[str, str] | None = None) -> None:
        """Refuse names that no column has, except names of columns that the model is without.

        Raises:
            FileError: Names the option, and the nearest names.
        """
        known = [name for name in self.names if name not in (without or {})]
        for name in asked:
            if name not in known:
                shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
                why = f" ({without[name]})" if without and name in without else suggest(name, known)
                raise FileError(f"{self.path}: {option}: no column {name!r} among {shown}{why}")

    def _rows(self, table: TableFile) -> int:
        return int(self._texts[table.path].num_rows) if table.path in self._texts else table.num_rows
