"""Headers and data of `.npy` files are read to the bit, or refused."""

import ast
import io
import math
import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.codecs.npy import Npy
from service.errors import InvalidError, MalformedError, RequestError

Array = npt.NDArray[Any]

PLAIN = hnp.array_shapes(max_dims=4, max_side=4).flatmap(
    lambda shape: st.sampled_from(["u1", "<i2", ">i4", "<i8", ">u2", "<f4", ">f4", "<f8", ">f8", "<f2"]).flatmap(
        lambda dtype: hnp.arrays(dtype, shape)
    )
)


def npy(array: Array, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version, allow_pickle=True)
    return buffer.getvalue()


def header(descr: object, shape: object, *, fortran: bool = False, data: int = 0) -> bytes:
    """An .npy file whose header says anything, before that many bytes of zeros."""
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape!r}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(data)


@given(array=PLAIN, fortran=st.booleans(), version=st.sampled_from([(1, 0), (2, 0)]))
def test_npy_reads_what_is_written(array: Array, fortran: bool, version: tuple[int, int]) -> None:
    answer = Npy().decode(npy(np.asfortranarray(array) if fortran else array, version), "x")
    assert isinstance(answer, np.ndarray)
    assert answer.dtype == array.dtype.newbyteorder("=")
    assert answer.dtype.isnative
    assert answer.flags.c_contiguous
    np.testing.assert_array_equal(answer, array)


@given(array=PLAIN, cut=st.integers(0), extra=st.binary(min_size=1, max_size=10))
def test_npy_of_another_length_is_refused(array: Array, cut: int, extra: bytes) -> None:
    body = npy(array)
    for wrong in (body[: cut % len(body)], body + extra):
        with pytest.raises(MalformedError, match=r"not a readable \.npy array"):
            Npy().decode(wrong, "x")


class Bomb:
    """Unpickled, it raises."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return ast.literal_eval, ("not python",)


@pytest.mark.parametrize("array", [np.array([Bomb()], object), np.array([(Bomb(), 1)], "O,i4")], ids=["plain", "field"])
def test_npy_is_never_unpickled(array: Array) -> None:
    with pytest.raises(MalformedError, match="of Python objects"):
        Npy().decode(npy(array), "x")


@pytest.mark.parametrize(
    ("body", "kind", "detail"),
    [
        (b"", MalformedError, "EOF"),
        (b"\x93NUMPY", MalformedError, "EOF"),
        (b"\x93NUMPZ\x01\x00", MalformedError, "magic string"),
        (b"PK\x03\x04" + bytes(100), MalformedError, "magic string"),
        (npy(np.zeros(3), (3, 0)), MalformedError, "not a readable"),
        (b"\x93NUMPY\x09\x00" + bytes(100), MalformedError, "not a readable"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100), MalformedError, "EOF"),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16, MalformedError, "not a readable"),
        (b"\x93NUMPY\x01\x00\x02\x00{}", MalformedError, "not a readable"),
        (header("<f4", (10**12, 8)), MalformedError, "0 bytes of data, 32000000000000 expected"),
        (header("<f4", (2**62, 2**62)), MalformedError, "expected"),
        (header("<f4", (0, 2**70)), MalformedError, "not a readable"),
        (header("<f4", (-1, 8), data=32), MalformedError, "32 bytes of data, -32 expected"),
        (header("<f4", (-1, -8), data=32), MalformedError, "not a readable"),
        (header("<f4", (True, 8), data=32), MalformedError, "not a readable"),
        (header("<f4", (1.0, 8), data=32), MalformedError, "not a readable"),
        (header("<f4", [1, 8], data=32), MalformedError, "not a readable"),
        (header("<f4", (1,) * 65, data=4), MalformedError, "not a readable"),
        (header("|V0", (3,)), MalformedError, "not a readable"),
        (header("<U0", (3,)), MalformedError, "not a readable"),
        (header("<f3", (3,), data=9), MalformedError, "not a readable"),
        (header("nonsense", (3,), data=9), MalformedError, "not a readable"),
        (header("|O", (1,), data=8), MalformedError, "of Python objects"),
        (header(("<f4", (2,)), (3,), data=24), InvalidError, "must be a plain array"),
        (header([("a", "<f4"), ("b", "<i4")], (3,), data=24), InvalidError, "must be a plain array"),
        (header("<f4", (), data=4), InvalidError, "must be a plain array"),
    ],
)
def test_damaged_npy_is_refused(body: bytes, kind: type[RequestError], detail: str) -> None:
    with pytest.raises(kind) as refusal:
        Npy().decode(body, "x")
    assert detail in refusal.value.detail
    assert refusal.value.location == ("x" if kind is InvalidError else None)


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }",
        "{'shape':(3,4),'fortran_order':False,'descr':'<f4'}",
        '{"descr": "float32", "fortran_order": False, "shape": (3L, 4L)}  ',
    ],
)
def test_a_header_is_read_without_python(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parser may fail on the event loop while a thread that loads a version uses it too."""
    monkeypatch.setattr(ast, "parse", None)
    body = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(48)
    assert Npy().decode(body, "x").shape == (3, 4)  # type: ignore[attr-defined]


def test_a_header_costs_no_memory() -> None:
    tracemalloc.start()
    with pytest.raises(MalformedError):
        Npy().decode(header("<f8", (10**12, 1000), data=8), "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_npy_writes_one_column_plainly() -> None:
    for array in (np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(6.0).reshape(3, 2).T):
        answer = np.load(io.BytesIO(Npy().encode({"x": array})), allow_pickle=False)
        assert answer.dtype == array.dtype
        np.testing.assert_array_equal(answer, array)


def test_npy_writes_several_columns_as_records() -> None:
    columns = {"a": np.arange(3.0), "b": np.arange(12, dtype=np.float32).reshape(3, 2, 2), "c": np.full(3, np.nan)}
    answer = np.load(io.BytesIO(Npy().encode(columns)), allow_pickle=False)
    assert answer.shape == (3,)
    assert answer.dtype == [("a", "f8"), ("b", "f4", (2, 2)), ("c", "f8")]
    for name, values in columns.items():
        np.testing.assert_array_equal(answer[name], values)


@given(
    columns=st.dictionaries(
        st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=4),
        st.tuples(st.sampled_from(["<f8", "<f4", "|u1", "|b1", "<U3"]), hnp.array_shapes(min_dims=0, max_dims=2)),
        min_size=2,
        max_size=5,
    ),
    rows=st.integers(0, 3),
    step=st.sampled_from([1, 3]),
)
def test_npy_writes_records_of_any_columns(
    columns: dict[str, tuple[str, tuple[int, ...]]], rows: int, step: int
) -> None:
    """A single record is put together in another way than several."""
    given_columns = {
        name: np.arange(rows * step * math.prod(shape)).reshape(-1, *shape).astype(dtype)[::step]
        for name, (dtype, shape) in columns.items()
    }
    expected = np.empty(rows, [(name, values.dtype, values.shape[1:]) for name, values in given_columns.items()])
    for name, values in given_columns.items():
        expected[name] = values
    assert Npy().encode(given_columns) == npy(expected)
