"""Parts: a folder of Parquet files, in the order of their rows, each of which appears whole or not at all.

    _request.json        what was asked; a folder begun with something else is refused
    part-000000.parquet  the first rows, and so on
    _done                all rows are there

Names with `_` are passed over by readers of Parquet datasets. A run that is killed leaves whole parts, and perhaps the
beginning of one under a name with a dot. The next run goes on after the whole ones.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet
from fsspec.core import url_to_fs

from service.codecs.rows import PROBLEM
from service.errors import FileError
from service.readers.parquet import open_parquet, read_parquet

PART_ROWS = 2**17
"""Rows after which a part is closed."""

REQUEST = "_request.json"
DONE = "_done"


class PartWriter:
    """The answers of one run, or of several that went on where the last one stopped.

    Args:
        folder: A path or URL; made if absent.
        request: What was asked, in JSON's types.

    Attributes:
        folder: As given.
        rows: In whole parts.
        problems: How many of these rows have a problem.
        done: Whether these are all.

    Raises:
        FileError: The folder was begun with another request, or has other files in it, or cannot be written.
    """

    def __init__(self, folder: str, request: dict[str, Any]) -> None:
        self.folder = folder
        self._writer: pyarrow.parquet.ParquetWriter | None = None
        self._file: IO[bytes] | None = None
        self._pending = self._pending_problems = 0
        try:
            self._system, self._root = url_to_fs(folder)
            self._system.makedirs(self._root, exist_ok=True)
            self._begin(request)
            self.rows, self.problems = self._count()
            self.done = self._system.exists(self._path(DONE))
        except (OSError, ImportError, ValueError) as error:
            raise FileError(f"{folder}: cannot be written: {error}") from error

    def add(self, batch: pa.RecordBatch) -> None:
        """The next rows' answers."""
        try:
            if self._writer is None:
                self._file = self._system.open(self._path(self._hidden()), "wb")
                # Numbers hardly repeat: a dictionary of them would cost much and save nothing.
                words = [field.name for field in batch.schema if not pa.types.is_floating(field.type)]
                self._writer = pyarrow.parquet.ParquetWriter(self._file, _typed(batch.schema), use_dictionary=words)
            self._writer.write_batch(batch.cast(self._writer.schema))
            self._pending += batch.num_rows
            self._pending_problems += _count_problems(batch)
            if self._pending >= PART_ROWS:
                self.close()
        except (OSError, pa.ArrowException) as error:
            raise FileError(f"{self.folder}: cannot be written: {error}") from error

    def close(self) -> None:
        """Make the last part whole."""
        if self._writer is None or self._file is None:
            return
        self._writer.close()
        self._file.close()
        self._system.mv(self._path(self._hidden()), self._path(_name(self._number)))
        self._number += 1
        self.rows += self._pending
        self.problems += self._pending_problems
        self._pending = self._pending_problems = 0
        self._writer = None

    def finish(self) -> None:
        """All rows have been added, and nothing is to be changed any more."""
        self.close()
        self._system.pipe_file(self._path(DONE), b"")
        self.done = True

    def read(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The whole parts, one after another: all columns, or those of these names that there are."""
        for number in range(self._number):
            with self._system.open(self._path(_name(number)), "rb") as file:
                yield read_parquet(file, columns)

    def set_column(self, name: str, make: Callable[[pa.Table], pa.Array]) -> None:
        """Give every whole part one more column, before `finish`; a run that goes on gives it again."""
        for number, part in enumerate(self.read()):
            rest = part.drop_columns(name) if name in part.column_names else part
            with self._system.open(self._path(f".{_name(number)}"), "wb") as file:
                pyarrow.parquet.write_table(rest.append_column(name, make(rest)), file)
            self._system.mv(self._path(f".{_name(number)}"), self._path(_name(number)))

    def remove(self) -> None:
        """Delete the folder."""
        self._system.rm(self._root, recursive=True)

    def abandon(self) -> None:
        """Drop the part that is not whole, if there is one."""
        with contextlib.suppress(OSError, pa.ArrowException):
            if self._writer is not None and self._file is not None:
                self._writer.close()
                self._file.close()
                self._system.rm_file(self._path(self._hidden()))
        self._writer = None

    def _begin(self, request: dict[str, Any]) -> None:
        hidden = f".{REQUEST}"  # Which a run may leave that was killed, or for which the disk had no room.
        names = {path.rpartition("/")[2] for path in self._system.ls(self._root, detail=False)} - {hidden}
        if REQUEST not in names:
            if names:
                raise FileError(f"{self.folder}: has other files in it; give an empty folder, or a new one")
            self._system.pipe_file(self._path(hidden), json.dumps(request, indent=2).encode())
            self._system.mv(self._path(hidden), self._path(REQUEST))
            return
        before = json.loads(self._system.cat_file(self._path(REQUEST)))
        for key in {**before, **request}:
            if before.get(key) != request.get(key):
                raise FileError(
                    f"{self.folder}: was begun with {key} {before.get(key)!r}, not {request.get(key)!r}; "
                    "ask for the same to go on, or give another folder"
                )

    def _count(self) -> tuple[int, int]:
        """The rows of the whole parts, and their problems; what comes after the first that is none is made anew."""
        rows = problems = self._number = 0
        while self._system.exists(path := self._path(_name(self._number))):
            try:
                with self._system.open(path, "rb") as file:
                    rows += open_parquet(file).metadata.num_rows
                    problems += _count_problems(read_parquet(file, [PROBLEM]))
            except pa.ArrowInvalid:  # The machine, not only the process, ended while it was written.
                break
            self._number += 1
        for path in self._system.glob(self._path("part-*.parquet")):
            if path.rpartition("/")[2] >= _name(self._number):
                self._system.rm_file(path)
        return rows, problems

    def _hidden(self) -> str:
        return f".{_name(self._number)}"

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


def _typed(schema: pa.Schema) -> pa.Schema:
    """Let columns to keep that have no value in a file have them in the next, of any kind."""
    return pa.schema([pa.field(f.name, pa.string()) if pa.types.is_null(f.type) else f for f in schema])


def _name(number: int) -> str:
    return f"part-{number:06d}.parquet"


def _count_problems(rows: pa.RecordBatch | pa.Table) -> int:
    return rows.num_rows - rows.column(PROBLEM).null_count if PROBLEM in rows.schema.names else 0
