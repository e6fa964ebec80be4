"""Parquet files, read by the calling thread alone.

Arrow's threads would keep the bytes of a file of Python's a moment longer than its reader. If Python ends in that
moment, the thread that gives them back aborts the process.
"""

import json
from collections.abc import Mapping, Sequence
from typing import IO

import pyarrow as pa
import pyarrow.parquet


def open_parquet(file: IO[bytes]) -> pyarrow.parquet.ParquetFile:
    """Open a file, whose methods then take `use_threads=False`."""
    return pyarrow.parquet.ParquetFile(file, pre_buffer=False)


def read_parquet(file: IO[bytes], columns: Sequence[str] | None = None) -> pa.Table:
    """Read all rows, with all columns or those of these names that there are."""
    return open_parquet(file).read(columns, use_threads=False)


def pandas_columns(metadata: Mapping[bytes, bytes]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Find the names of pandas' index columns, and of the columns that were categories.

    There are none where another program wrote what pandas would not.
    """
    try:
        told = json.loads(metadata.get(b"pandas", b"{}"))
        index = tuple(name for name in told.get("index_columns", ()) if isinstance(name, str))
        columns = told.get("columns", ())
        categories = tuple(column["name"] for column in columns if column.get("pandas_type") == "categorical")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return (), ()
    return index, categories
