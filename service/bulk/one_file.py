"""The parts of a run as one file, CSV or Parquet as its name says."""

from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from fsspec.core import url_to_fs

from service.bulk.writer import PartWriter
from service.codecs.text import flat_table
from service.errors import FileError

SUFFIXES = (".csv", ".parquet")
_NOT_WRITTEN = (".xlsx", ".xls", ".json", ".jsonl", ".tsv", ".txt", ".gz", ".zst", ".npy", ".npz", ".arrow", ".feather")


def is_one_file(path: str) -> bool:
    """Whether an output's name is that of a file.

    Raises:
        FileError: It is that of a kind of files that is not written.
    """
    if path.endswith(_NOT_WRITTEN):
        raise FileError(f"{path}: is no folder, and files are written as {' or '.join(SUFFIXES)}")
    return path.endswith(SUFFIXES)


def refuse_existing(path: str) -> None:
    """Refuse to write over a file.

    Raises:
        FileError: There is one.
    """
    system, target = url_to_fs(path)
    if system.exists(target):
        raise FileError(f"{path}: exists already; remove it, or give another name")


def write_file(parts: PartWriter, path: str) -> None:
    """Write all parts into a file that appears whole or not at all, and remove them.

    Raises:
        FileError: The file cannot be written; the parts stay.
    """
    try:
        system, target = url_to_fs(path)
        folder, slash, name = target.rpartition("/")
        hidden = f"{folder}{slash}.{name}"
        with system.open(hidden, "wb") as file:
            _write(parts, file, text=path.endswith(".csv"))
        system.mv(hidden, target)
        parts.remove()
    except (OSError, pa.ArrowException) as error:
        raise FileError(f"{path}: cannot be written: {error}") from error


def _write(parts: PartWriter, file: Any, *, text: bool) -> None:
    writer: Any = None
    for part in parts.read():
        table = flat_table(part) if text else part
        if writer is None:
            kind = pyarrow.csv.CSVWriter if text else pyarrow.parquet.ParquetWriter
            writer = kind(file, table.schema)
        writer.write_table(table.cast(writer.schema) if not text else table)
    if writer is not None:
        writer.close()
