"""Arrow streams: arrays and records come back as they were sent, and no bytes are read as what they are not."""

import contextlib
import io
import random
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.codecs import arrow
from service.codecs.arrow import read_stream, write_stream
from service.codecs.rendering import Records
from service.errors import InvalidError, MalformedError, RequestError, TooLargeError

Array = npt.NDArray[Any]

DTYPES = st.sampled_from(["u1", "i2", "i4", "i8", "u2", "f2", "f4", "f8"])
ARRAYS = hnp.array_shapes(max_dims=4, max_side=4).flatmap(
    lambda shape: DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, shape))
)
TABLE = pa.table(
    {
        "age": [1.5, None, -2.0],
        "count": pa.array([1, 2, None], pa.int16()),
        "colour": pa.array(["red", None, "blue"]).dictionary_encode(),
        "word": ["a", "ß", None],
        "is_new": [True, None, False],
    }
)
RECORDS = [
    {"age": 1.5, "count": 1, "colour": "red", "word": "a", "is_new": True},
    {"age": None, "count": 2, "colour": None, "word": "ß", "is_new": None},
    {"age": -2.0, "count": None, "colour": "blue", "word": None, "is_new": False},
]


def stream(table: pa.Table, compression: str | None = None, rows_each: int | None = None) -> bytes:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, rows_each)
    return buffer.getvalue()


def nested(array: Array) -> pa.Array:
    column = pa.array(array.reshape(-1))
    for size in array.shape[:0:-1]:
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def test_a_stream_has_no_more_batches_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "MAX_BATCHES", 3)
    three = pa.table({"x": nested(np.arange(6).reshape(3, 2))})
    assert len(read_stream(stream(three, rows_each=1), "x")) == 3
    with pytest.raises(TooLargeError, match="more than 3 batches"):
        read_stream(stream(pa.concat_tables([three, three.slice(2)]), rows_each=1), "x")


@given(array=ARRAYS, rows_each=st.none() | st.integers(1, 3))
def test_fixed_size_lists_are_an_array(array: Array, rows_each: int | None) -> None:
    read = read_stream(stream(pa.table({"x": nested(array)}), rows_each=rows_each), "x")
    assert isinstance(read, np.ndarray)
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


@given(array=ARRAYS.filter(lambda array: array.ndim > 1))
def test_tensors_are_an_array(array: Array) -> None:
    read = read_stream(stream(pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(array)})), "x")
    assert isinstance(read, np.ndarray)
    np.testing.assert_array_equal(read, array)


def test_one_batch_is_not_copied() -> None:
    body = stream(pa.table({"x": nested(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))}))
    read = read_stream(body, "x")
    assert isinstance(read, np.ndarray)
    assert np.shares_memory(read, np.frombuffer(body, np.uint8))


def test_a_permuted_tensor_is_refused() -> None:
    kind = pa.fixed_shape_tensor(pa.uint8(), [2, 3], permutation=[1, 0])
    column = pa.ExtensionArray.from_storage(kind, nested(np.zeros((1, 6), np.uint8)))
    with pytest.raises(MalformedError, match=r"^x: not a readable tensor"):
        read_stream(stream(pa.table({"x": column})), "x")


@pytest.mark.parametrize("rows_each", [None, 1, 2])
def test_columns_are_records(rows_each: int | None) -> None:
    assert read_stream(stream(TABLE, rows_each=rows_each), "instances") == RECORDS


def test_records_in_one_column_are_records() -> None:
    assert read_stream(stream(pa.table({"instances": TABLE.to_struct_array()})), "instances") == RECORDS


def test_other_lists_are_lists() -> None:
    column = pa.array([[[1.0], [2.0, 3.0]], None])
    assert read_stream(stream(pa.table({"x": column})), "x") == [[[1.0], [2.0, 3.0]], None]
    with_null = pa.array([[1, None]], pa.list_(pa.int8(), 2))
    assert read_stream(stream(pa.table({"x": with_null})), "x") == [[1, None]]


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("column", ["age", "colour"])
def test_compressed_streams_are_refused(compression: str, column: str) -> None:
    with pytest.raises(MalformedError, match="a compressed Arrow stream"):
        read_stream(stream(TABLE.select([column]), compression), "instances")


@pytest.mark.parametrize(
    "kind",
    [pa.binary(4), pa.month_day_nano_interval(), pa.list_(pa.null()), pa.list_(pa.timestamp("s", "Mars" * 25_000))],
)
def test_other_types_are_refused_alone(kind: pa.DataType) -> None:
    table = pa.table({"age": [1.0], "when": pa.array([None], kind)})
    assert read_stream(stream(table), "instances") == [{"age": 1.0, "when": kind}]
    with pytest.raises(InvalidError, match=r"^when: columns of .{1,100} are not read$"):
        read_stream(stream(table.select(["when"])), "instances")


def test_null_columns_are_read_beside_others() -> None:
    table = pa.table({"age": [1.0], "when": pa.nulls(1)})
    assert read_stream(stream(table), "instances") == [{"age": 1.0, "when": None}]
    with pytest.raises(InvalidError, match="columns of null alone are not read"):
        read_stream(stream(table.select(["when"])), "instances")


def test_names_must_differ() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(InvalidError, match="must have columns, of different names"):
        read_stream(stream(table), "instances")
    with pytest.raises(InvalidError, match="must have columns"):
        read_stream(stream(pa.table({})), "instances")


def test_values_are_counted_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "MAX_VALUES", 14)
    with pytest.raises(TooLargeError, match="more than 14 values that are no array"):
        read_stream(stream(TABLE), "instances")
    monkeypatch.setattr(arrow, "MAX_VALUES", 17)  # Fifteen cells, and the dictionary.
    assert read_stream(stream(TABLE), "instances") == RECORDS


@pytest.mark.parametrize("seed", range(4))
def test_changed_bytes_are_read_or_refused(seed: int) -> None:
    chance = random.Random(seed)
    array = nested(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    bodies = [stream(TABLE), stream(pa.table({"instances": array})), stream(pa.table({"instances": [[1], [2, 3]]}))]
    refused = 0
    for _ in range(500):
        body = bytearray(chance.choice(bodies))
        for _ in range(chance.choice([1, 1, 3])):
            place = chance.randrange(len(body))
            size = chance.choice([1, 1, 4])
            body[place : place + size] = chance.choice([bytes(size), b"\xff" * size, chance.randbytes(size)])
        try:
            read_stream(bytes(body), "instances")
        except RequestError:
            refused += 1
    assert refused > 100


@given(array=ARRAYS)
def test_what_is_written_is_read(array: Array) -> None:
    read = read_stream(write_stream({"x": array}), "x")
    np.testing.assert_array_equal(read, array)  # type: ignore[arg-type]


def test_an_answer_is_a_column_for_each_field() -> None:
    written = write_stream({"elbo": np.array([1.0, np.nan]), "mean": np.ones((2, 3), np.float32)})
    table = pa.ipc.open_stream(written).read_all()
    assert table.schema == pa.schema({"elbo": pa.float64(), "mean": pa.list_(pa.float32(), 3)})
    assert table.column("mean").to_pylist() == [[1, 1, 1]] * 2


def test_written_records_are_columns_that_can_be_sent() -> None:
    possible = {"age": (0.0,), "colour": ("red", "blue"), "code": (1, 2.5)}
    records = Records([[1.5, "red", 1], [float("nan"), "blue", None]], possible)
    written = write_stream({"instances": records})
    assert read_stream(written, "instances") == [records[0], {"age": None, "colour": "blue", "code": None}]
    colour = pa.ipc.open_stream(written).read_all().schema.field("colour").type
    assert pa.types.is_dictionary(colour)
    both = pa.ipc.open_stream(write_stream({"z": np.ones((2, 2)), "instances": records})).read_all()
    assert both.column_names == ["z", "instances"]
    assert both.column("instances").to_pylist()[0] == records[0]


def test_the_types_of_records_are_those_of_the_model_whatever_is_in_them() -> None:
    possible = {"age": (0.0,), "placed": ("",), "colour": ("red", "blue"), "code": (1, 2.5), "is_new": (False, True)}
    full, empty = ([1.5, "2026-01-05", "red", 1, True], [None] * 5)
    schemas = [pa.ipc.open_stream(write_stream({"x": Records([row], possible)})).schema for row in (full, empty)]
    assert schemas[0] == schemas[1]


def test_words_and_numbers_make_no_column() -> None:
    with pytest.raises(InvalidError, match="values of 'colour' make no Arrow column"):
        write_stream({"instances": Records([["red"], [1]], {"colour": ("red", 1)})})


def with_months(table: pa.Table) -> bytes:
    """Its dates as intervals of months, which other languages write, and of which PyArrow has no arrays."""
    raw = stream(table)
    for place in [place for place, byte in enumerate(raw) if byte == 8]:  # The number of the type `Date`.
        changed = raw[:place] + bytes([11]) + raw[place + 1 :]  # That of `Interval`, which is written alike.
        with contextlib.suppress(pa.ArrowException, OSError):
            if "month_interval" in map(str, pa.ipc.open_stream(changed).schema.types):
                return changed
    raise AssertionError


def test_intervals_that_pyarrow_cannot_hold_are_not_read() -> None:
    dates = pa.array([1, 2], pa.date32())
    for name in ("x", "y"):
        with pytest.raises(InvalidError, match="columns of month_interval are not read"):
            read_stream(with_months(pa.table({name: dates})), "x")
    (first, _) = read_stream(with_months(pa.table({"n": [5, 6], "y": dates})), "x")
    assert first["n"] == 5
    assert str(first["y"]) == "month_interval"
