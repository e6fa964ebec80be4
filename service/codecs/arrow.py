"""Arrow IPC streams: between the bytes of one and arrays, or records by column name.

    one column, `instances`, of fixed-size lists of numbers, nested or as `arrow.fixed_shape_tensor`: an array
    one column, `instances`, of anything else: a list of its values
    other columns: a list of records by column name; a column of a type that is not read has its type for each value,
        because the model may do without the column

Values of dictionaries are read as what they stand for, a null as None; dates and times as texts in ISO 8601, decimals
and durations (in seconds) as numbers. Compressed streams are refused, because a few
bytes of them can claim any size.

pyarrow is large (170 MB), but the smaller readers, nanoarrow and arro3, end the process at streams of which one byte
was changed.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from service.bundle import Array, Category
from service.codecs.rendering import Records
from service.errors import InvalidError, MalformedError, TooLargeError
from service.readers.columns import decimals, decoded, is_text
from service.readers.times import is_time, seconds

MAX_VALUES = 2**24
"""Most values that are made into Python objects: columns of bits hold eight in each byte."""

MAX_BATCHES = 2**14
"""Most batches of a stream; each takes some microseconds, of a hundred bytes."""


def read_stream(body: bytes, field: str) -> object:
    """The values in a stream, as the module says; an array is a view of the body where one batch holds it all.

    Raises:
        MalformedError: The bytes are no Arrow stream, or a compressed one.
        TooLargeError: They are more than `MAX_VALUES`, and no array; or in more than `MAX_BATCHES` batches.
        InvalidError: There is no column, or one alone of a type that is not read.
    """
    try:
        compressed = _is_compressed(body)
        table = pa.table({}) if compressed else pa.ipc.open_stream(body).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, struct.error, NotImplementedError) as error:
        raise MalformedError(f"not a readable Arrow stream: {error}") from error
    if compressed:
        raise MalformedError("a compressed Arrow stream: send it plain")
    names = table.column_names
    if not names or len(set(names)) < len(names):
        raise InvalidError(f"must have columns, of different names, not {names}", "body")
    try:
        array = read_array(table.column(0)) if names == [field] else None
    except (NotImplementedError, ValueError) as error:
        raise MalformedError(f"not a readable tensor: {error}", field) from error
    except KeyError as error:
        raise InvalidError(f"columns of {table.column(0).type} are not read", field) from error
    if array is not None:
        return array
    return _read_values(table, field)


def _read_values(table: pa.Table, field: str) -> list[Any]:
    """The values of the one column `field`, or the records of a table of other columns."""
    columns = dict(zip(table.column_names, table.columns, strict=True))  # A table looks for each name among all.
    read = [name for name, column in columns.items() if not pa.types.is_null(column.type)]
    if not read:  # They take no bytes, however many rows there are.
        raise InvalidError("columns of null alone are not read", next(iter(columns)))
    alone = [*columns] == [field]  # Its values are those of an array, and no columns of a table.
    unread: dict[str, pa.DataType] = {}
    values = table.num_rows * (len(columns) - len(read))
    for name in read:
        try:
            values += sum(_count(chunk, name, not alone) for chunk in columns[name].chunks)
        except (InvalidError, KeyError) as error:  # PyArrow has no arrays of some intervals.
            if len(unread) + 1 == len(columns):
                raise InvalidError(f"columns of {str(columns[name].type)[:100]} are not read", name) from error
            unread[name], values = columns[name].type, values + table.num_rows
    if values > MAX_VALUES:
        raise TooLargeError(f"more than {MAX_VALUES:,} values that are no array; send fixed-size lists", field)
    try:
        if alone:
            return list(table.column(0).to_pylist())
        records = pa.table({name: _in_json(column) for name, column in columns.items() if name not in unread})
        return [record | unread for record in records.to_pylist()]
    except (ValueError, ArithmeticError, pa.ArrowException) as error:  # The second: decimals without end.
        raise MalformedError(f"not a readable Arrow stream: {error}") from error


def write_stream(columns: Mapping[str, Any]) -> bytes:
    """One batch with a column for each field: numbers, fixed-size lists of them, texts, or records; NaN is null.

    Records that are all there is are a column for each key instead, as they would be sent; words in records are
    dictionary-encoded.

    Raises:
        InvalidError: Values of one key are of kinds that no column can hold together, as words and numbers.
    """
    batch = write_batch(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def write_batch(columns: Mapping[str, Any]) -> pa.RecordBatch:
    """The batch of `write_stream`."""
    arrays = {name: _array(x) for name, x in columns.items()}
    alone = next(iter(arrays.values()))
    whole = len(arrays) == 1 and pa.types.is_struct(alone.type)
    return pa.RecordBatch.from_struct_array(alone) if whole else pa.RecordBatch.from_pydict(arrays)


def read_array(column: Any) -> Array | None:
    """The values of fixed-size lists of numbers, or of numbers; None where there are others, or lists that are null.

    A null among floating-point numbers is NaN, as in what is written.
    """
    shape = [len(column)]
    tensor = column.type if isinstance(column.type, pa.FixedShapeTensorType) else None
    values = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # Combining one would copy it.
    if tensor is not None:
        if tensor.permutation not in (None, list(range(len(tensor.shape)))):
            raise ValueError("its elements are permuted")
        values = values.storage
    while pa.types.is_fixed_size_list(values.type) and not values.null_count:
        shape.append(values.type.list_size)
        values = values.flatten()
    floating = pa.types.is_floating(values.type)
    if not (floating or (pa.types.is_integer(values.type) and not values.null_count)):
        return None
    flat: Array = values.to_numpy(zero_copy_only=len(values) > 0 and not values.null_count)
    return flat.reshape(shape if tensor is None else [len(column), *tensor.shape])


def _count(values: Any, place: str, times: bool) -> int:
    """How many values there are, with those inside them.

    Raises:
        InvalidError: They are of a type that is not read; some hold any number of values in no bytes at all.
    """
    kind, inside = values.type, []
    if pa.types.is_dictionary(kind) and not pa.types.is_nested(kind.value_type):  # A list for each byte, else.
        return len(values) + _count(values.dictionary, place, times)
    if pa.types.is_struct(kind):
        inside = [values.field(i) for i in range(kind.num_fields)]
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inside = [values.values]
    elif not (
        is_text(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or (times and is_time(kind))
        or pa.types.is_decimal(kind)
    ):
        raise InvalidError(f"columns of {str(kind)[:100]} are not read", place)
    return len(values) + sum(_count(array, place, False) for array in inside)


def _in_json(column: Any) -> Any:
    """A column of values that JSON has too, read as the same cells are in a file."""
    kind = column.type
    if pa.types.is_dictionary(kind) and not pa.types.is_string(kind.value_type):
        return _in_json(column.cast(kind.value_type))
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        column = column.cast(pa.timestamp(kind.unit, "UTC"))
    if pa.types.is_duration(kind):
        return pa.chunked_array([seconds(chunk) for chunk in column.chunks], pa.float64())
    if is_time(kind):
        return column.cast(pa.string())
    return decimals(column) if pa.types.is_decimal(kind) else decoded(column)


def _array(column: Any) -> Any:
    if not isinstance(column, np.ndarray):
        return _records(column) if isinstance(column, Records) else pa.array(column, pa.string())
    array = pa.array(np.ascontiguousarray(column).reshape(-1), from_pandas=True)
    for size in column.shape[:0:-1]:
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def _records(records: Records) -> Any:
    """A column of records. Its type is the model's, not that of these values, so that answers can be joined."""
    columns = {
        name: _values([record[name] for record in records], name, possible)
        for name, possible in records.possible.items()
    }
    return pa.StructArray.from_arrays(columns.values(), names=columns.keys())


def _values(values: Sequence[Any], name: str, possible: Sequence[Category]) -> Any:
    try:
        array = pa.array(values, pa.array(possible).type, from_pandas=True)
    except pa.ArrowException as error:
        raise InvalidError(f"values of {name!r} make no Arrow column: {error}", "header.Accept") from error
    return array.dictionary_encode() if pa.types.is_string(array.type) else array


def _is_compressed(body: bytes) -> bool:
    """Whether any batch of the stream is compressed; reading it would allocate the size that it claims."""
    compressed = False
    for number, message in enumerate(pa.ipc.MessageReader.open_stream(body)):
        if number > MAX_BATCHES:
            raise TooLargeError(f"more than {MAX_BATCHES:,} batches; send fewer and larger ones", "body")
        compressed = compressed or _batch_is_compressed(message)
    return compressed


def _batch_is_compressed(message: Any) -> bool:
    """Whether a message's `RecordBatch` has the field `compression`; what pyarrow verified, but does not tell."""
    if message.type not in {"record batch", "dictionary"}:
        return False
    table: bytes = message.metadata.to_pybytes()
    batch = _follow(table, _follow(table, 0), 2)  # Message.header
    if message.type == "dictionary":
        batch = _follow(table, batch, 1)  # DictionaryBatch.data
    return bool(_place(table, batch, 3))  # RecordBatch.compression


def _follow(buffer: bytes, table: int, number: int | None = None) -> int:
    """Where what a FlatBuffers table's field of that number refers to is; without one, what the buffer begins with."""
    place = table if number is None else _place(buffer, table, number)
    (offset,) = struct.unpack_from("<I", buffer, place)
    return place + int(offset)


def _place(buffer: bytes, table: int, number: int) -> int:
    """The position of a FlatBuffers table's field of that number; 0 where it is absent."""
    (back,) = struct.unpack_from("<i", buffer, table)
    (size,) = struct.unpack_from("<H", buffer, table - back)
    if 6 + 2 * number > size:
        return 0
    (offset,) = struct.unpack_from("<H", buffer, table - back + 4 + 2 * number)
    return table + int(offset) if offset else 0
