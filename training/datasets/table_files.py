"""The files of a table as one, column by column."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from service.errors import FileError, suggest
from service.readers.tables import TableFile, TextFile
from training.datasets.source import DataError


class TableFiles:
    """Files with the same columns. Those of text are kept in memory, as text; of Parquet, one column at a time is.

    Args:
        path: What leads to them.
        tables: The files, in their order.

    Attributes:
        path: See there.
        tables: See there.
        names: Of the columns; they may repeat.
        index: Those of pandas' index.
        num_rows: N, of all files.
    """

    def __init__(self, path: str, tables: Sequence[TableFile]) -> None:
        self.path = path
        self.tables = tables
        self.names = tables[0].names
        self.index = {name for table in tables for name in table.index}
        self._texts = {table.path: table.whole() for table in tables if isinstance(table, TextFile)}
        self.num_rows = sum(map(self._rows, tables))

    def read(self, name: str) -> pa.ChunkedArray:
        """All cells of a column, (N,)."""
        chunks: list[pa.Array] = []
        for table in self.tables:
            if table.path in self._texts:
                chunks += self._texts[table.path].column(str(table.names.index(name))).chunks
            else:
                chunks += [batch.column(0) for batch in table.batches([name])]
        kinds = {chunk.type for chunk in chunks}
        if len(kinds) > 1:
            if len(kinds := {k for k in kinds if not pa.types.is_null(k)}) > 1:
                raise FileError(f"{self.path}, column {name!r}: {' and '.join(sorted(map(str, kinds)))} in its parts")
            chunks = [chunk.cast(next(iter(kinds))) for chunk in chunks]
        return pa.chunked_array(chunks)

    def place(self, row: int, column: str) -> str:
        """Name a cell's place, with the row in its file."""
        for table in self.tables:
            if row < (count := self._rows(table)):
                return table.place(row, column)
            row -= count
        raise IndexError(row)

    def check(self, asked: Collection[str], option: str, without: Mapping[str, str] | None = None) -> None:
        """Refuse names that no column has, except names of columns that the model is without.

        Raises:
            DataError: Names the option, and the nearest names.
        """
        known = [name for name in self.names if name not in (without or {})]
        for name in asked:
            if name not in known:
                shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
                why = f" ({without[name]})" if without and name in without else suggest(name, known)
                raise DataError(f"{self.path}: {option}: no column {name!r} among {shown}{why}")

    def check_names(self, without: Collection[str]) -> None:
        """Refuse columns without a name, and several of one name.

        Raises:
            DataError: Names them.
        """
        counts = Counter(name for name in self.names if name not in without)
        if repeated := [name for name, count in counts.items() if count > 1]:
            raise DataError(
                f"{self.path}: {counts[repeated[0]]} columns are named {repeated[0]!r}; rename or drop them"
            )

    def _rows(self, table: TableFile) -> int:
        return int(self._texts[table.path].num_rows) if table.path in self._texts else table.count()
