"""Inputs: files of rows, read batch by batch from any row on. One class for each kind of file.

    .npy, .npz, IDX (plain or .gz)          one array, its first axis counting rows
    Parquet                                 a table's columns by name; images as fixed-size lists, `instances`
    CSV and its like, plain, .gz or .zst    with a header: a table's columns by name
    pictures                                one instance each; a folder's are one input, in the order of their names
    a folder, or a pattern as rows-*.csv    files of the kinds above, at any depth

Paths are local, or URLs of a file system that fsspec knows.
"""

import logging
from collections.abc import Iterator, Sequence

import pyarrow as pa

from service.bulk.arrays import Npy, WholeArray
from service.bulk.batches import FIELD, Batch, Input, parse_batch
from service.bulk.pictures import Pictures, kind_of
from service.bundle import ImageInput, TabularInput
from service.codecs.arrow import read_array
from service.codecs.instances import mark_cells
from service.codecs.rows import MARKING, Marks
from service.errors import FileError, InvalidError
from service.readers import parse_table
from service.readers.files import find_files
from service.readers.tables import TABLE_SUFFIXES, is_table, open_table

ARRAYS = (".npy", ".npz")

NAMED = 3
"""Most files that a message names."""

logger = logging.getLogger("service.bulk")


def open_inputs(paths: Sequence[str], data: ImageInput | TabularInput, keep: Sequence[str] = ()) -> list[Input]:
    """The inputs that the paths lead to, in their order, with the columns to keep beside the answers.

    Raises:
        FileError: One leads nowhere, to nothing that can be read, or to a file without the model's columns, or
            without those to keep.
    """
    found: list[Input] = []
    for path in paths:
        images = isinstance(data, ImageInput)
        files = find_files(path, pictures=images)
        kinds = {file: "rows" if _holds_rows(file, images=images) else kind_of(file) for file in files}
        pictures = [file for file, kind in kinds.items() if kind == "picture"]
        others = [file for file, kind in kinds.items() if kind is None]
        if images and (pictures or "idx" in kinds.values()):
            _tell_left_out(path, others, len(files))
        elif not images and others == files and len(files) == 1:
            kinds = dict.fromkeys(files, "rows")  # A table of any name, as in training.
        elif others and not pictures:
            known = ", ".join((*ARRAYS, *TABLE_SUFFIXES))
            raise FileError(
                f"{others[0]}: is no picture or IDX file, and its name ends in none of {known}; move it away"
            )
        if pictures:
            found.append(Pictures(path, pictures, data))
        found += [_open(file, data, keep, kind) for file, kind in kinds.items() if kind in {"rows", "idx"}]
    if keep and (others := [source.path for source in found if not isinstance(source, Table)]):
        raise FileError(f"{others[0]}: has no columns to keep")
    return found


def _open(file: str, data: ImageInput | TabularInput, keep: Sequence[str], kind: str | None) -> Input:
    name = file.lower()
    if name.endswith(".npy"):
        return Npy(file, data)
    if name.endswith(".npz") or kind == "idx":
        return WholeArray(file, data)
    return Table(file, data, keep)


def _holds_rows(file: str, *, images: bool) -> bool:
    """Whether a file is an array or a table, by its name; text holds no images."""
    return file.lower().endswith((*ARRAYS, ".parquet")) or (not images and is_table(file))


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


class Table:
    """A Parquet or text file: a table's columns by name, or images as fixed-size lists."""

    def __init__(self, path: str, data: ImageInput | TabularInput, keep: Sequence[str]) -> None:
        self.path = path
        self._data = data
        self._keep = list(keep)
        self._columns = data.given if isinstance(data, TabularInput) else (FIELD,)
        self._wanted = tuple(dict.fromkeys((*self._columns, *keep)))
        self._file = open_table(path, like=data if isinstance(data, TabularInput) else None)
        self._file.check(self._wanted)
        self.seeks = self._file.seeks

    def count(self) -> int:
        return self._file.num_rows

    def read(self, start: int, rows: int) -> Iterator[Batch]:
        row = start
        for batch in self._file.batches(self._wanted, start, rows):
            yield self._parse(batch, row)
            row += batch.num_rows

    def _parse(self, batch: pa.RecordBatch, start: int) -> Batch:
        if isinstance(self._data, TabularInput):
            marks = Marks()
            x, problems = parse_table({name: batch.column(name) for name in self._columns}, self._data)
            for row in range(start, start + len(x)):
                if (detail := self._file.wrong.get(row)) is not None:
                    marks.unreadable[row - start] = InvalidError(detail, f"{FIELD}[{row - start}]")
            mark_cells(problems, MARKING, marks)
            kept = batch.select(self._keep) if self._keep else None
            return Batch(x, path=self.path, start=start, marks=marks, kept=kept)
        values = read_array(pa.chunked_array([batch.column(FIELD)]))
        if values is None:
            raise FileError(f"{self.path}: {FIELD} must be fixed-size lists of numbers")
        return parse_batch(values, self._data, self.path, start)
