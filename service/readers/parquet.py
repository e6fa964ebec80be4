"""Parquet files, read by the calling thread alone.

Arrow's threads would keep the bytes of a file of Python's a moment longer than its reader. If Python ends in that
moment, the thread that gives them back aborts the process.
"""

from collections.abc import Sequence
from typing import IO

import pyarrow as pa
import pyarrow.parquet


def open_parquet(file: IO[bytes]) -> pyarrow.parquet.ParquetFile:
    """Open a file, whose methods then take `use_threads=False`."""
    return pyarrow.parquet.ParquetFile(file, pre_buffer=False)


def read_parquet(file: IO[bytes], columns: Sequence[str] | None = None) -> pa.Table:
    """Read all rows, with all columns or those of these names that there are."""
    return open_parquet(file).read(columns, use_threads=False)
