"""Rows of every kind that callers have: how a slice goes over the wire, and how answers become the same kind."""

import datetime as dt
import decimal
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from .errors import InvalidError

ARROW = "application/vnd.apache.arrow.stream"
NPY = "application/x-npy"


@dataclass(frozen=True)
class Rows:
    """Rows of a caller.

    Attributes:
        values: What has a length, and slices.
        media_type: Of a request with some of them.
        encode: The bytes of a request with a slice of them.
        same_kind: From the answer to all rows to the kind that the rows have.
    """

    values: Any
    media_type: str
    encode: Callable[[Any], bytes]
    same_kind: Callable[[pa.Table], Any]

    def __len__(self) -> int:
        return len(self.values)


def read_rows(rows: Any) -> Rows:
    """Rows of a pandas or Polars frame, an Arrow table, a NumPy array, or a list of records or nested lists.

    Raises:
        TypeError: Rows of another type.
        InvalidError: A column of a frame whose cells are of kinds that no Arrow column holds together.
    """
    match _library(rows):
        case "numpy" if rows.dtype == object or rows.dtype.names:  # As a frame's `to_numpy` or `to_records` gives them.
            values = (
                [{name: row[name] for name in row.dtype.names} for row in rows] if rows.dtype.names else rows.tolist()
            )
            return replace(_records(values, "instances"), same_kind=to_arrays)
        case "numpy":
            return Rows(rows, NPY, _save, to_arrays)
        case "pandas" | "polars" if len(getattr(rows, "shape", ())) < 2:
            pass  # A series, or a frame that is not computed yet.
        case "pandas":
            return Rows(_from_pandas(rows), ARROW, _stream, lambda answer: _to_pandas(answer, rows.index))
        case "polars":
            return Rows(rows.to_arrow(), ARROW, _stream, _to_polars)
        case _ if hasattr(rows, "__arrow_c_stream__"):
            return Rows(pa.table(rows), ARROW, _stream, lambda answer: answer)
        case _ if isinstance(rows, list | tuple):
            return _records(rows, "instances")
    raise TypeError(
        f"rows of type {type(rows).__name__}: give a pandas or Polars frame, an Arrow table, a NumPy array, or a list"
    )


def read_latents(latents: Any) -> Rows:
    """Latents z, (rows, latent size), of the same kinds; the columns of a frame are the latents in their order.

    Raises:
        TypeError: See `read_rows`.
    """
    match _library(latents):
        case "pandas":
            z, back = latents.to_numpy(), lambda answer: _to_pandas(answer, latents.index)
        case "polars":
            z, back = latents.to_numpy(), _to_polars
        case "pyarrow":
            z, back = np.column_stack([column.to_numpy() for column in latents.columns]), lambda answer: answer
        case _ if isinstance(latents, list | tuple):
            return _records(latents, "latents")
        case _:
            return read_rows(latents)
    return Rows(z.astype(np.float32), NPY, _save, back)


def _records(values: Sequence[Any], field: str) -> Rows:
    """A list of records by column name, or of nested lists, under the name that the endpoint reads."""

    def encode(some: Sequence[Any]) -> bytes:
        try:
            return json.dumps({field: _in_json(some)}, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise InvalidError(str(error), field) from error

    return Rows(values, "application/json", encode, pa.Table.to_pylist)


def to_arrays(answer: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
    """An array for each column of an answer, rows first; null numbers are NaN."""
    flat = _flatten(answer)
    return {name: _to_array(flat.column(name).combine_chunks()) for name in flat.column_names}


def _to_array(column: Any) -> np.ndarray[Any, Any]:
    shape = [len(column)]
    while pa.types.is_fixed_size_list(column.type):
        shape.append(column.type.list_size)
        column = column.flatten()
    values: np.ndarray[Any, Any] = column.to_numpy(zero_copy_only=False)
    return values.reshape(shape)


def _flatten(answer: pa.Table) -> pa.Table:
    """An answer whose records by column are columns of their own, as `feature_surprise.age`."""
    while any(pa.types.is_struct(field.type) for field in answer.schema):
        answer = answer.flatten()
    return answer


def _library(rows: Any) -> str:
    return type(rows).__module__.partition(".")[0]


def _from_pandas(frame: Any) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidError("; ".join(map(str, error.args))) from error


def _to_pandas(answer: pa.Table, index: Any) -> Any:
    frame = _flatten(answer).to_pandas(integer_object_nulls=True)  # Float64 lacks long ones.
    frame.index = index
    return frame


def _to_polars(answer: pa.Table) -> Any:
    import polars as pl  # noqa: PLC0415 - Only callers with a frame of this package have it.

    return pl.from_arrow(_flatten(answer))


def _in_json(value: Any) -> Any:
    """A value in JSON's terms: records, lists and arrays of cells."""
    match value:
        case Mapping():
            return {str(key): _in_json(member) for key, member in value.items()}
        case list() | tuple():
            return [_in_json(member) for member in value]
        case np.ndarray() if value.dtype.kind in "mM":
            return [_in_json(member) for member in value]
        case np.ndarray() | np.generic() if value.dtype.kind not in "mM":
            plain = value.tolist()
            if isinstance(plain, np.generic):  # Python has no number of this kind, as of 80 bits.
                return _cell(float(plain) if isinstance(plain, np.floating) else plain)
            return _in_json(plain)
    return _cell(value)


def _cell(value: Any) -> Any:
    """A cell in JSON's terms: NaN is null, durations are seconds, dates and decimals are what they stand for."""
    if isinstance(value, np.datetime64):
        return str(value)  # Its number counts in a unit that JSON does not name.
    if isinstance(value, np.timedelta64):
        value = float(value / np.timedelta64(1, "s"))
    elif isinstance(value, dt.timedelta):
        value = value.total_seconds()
    elif isinstance(value, decimal.Decimal):
        value = float(value)
    # pandas' own mark of a missing cell is known by its name where pandas is not.
    if type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value)):
        return None
    return value.isoformat() if isinstance(value, dt.date | dt.time) else value


def _save(array: np.ndarray[Any, Any]) -> bytes:
    body = io.BytesIO()
    np.save(body, array, allow_pickle=False)
    return body.getvalue()


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written
