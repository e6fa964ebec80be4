"""Tensors on the wire: what Triton's own client writes is read to the bit, and what is malformed is named."""

import gzip
import json
import math
import re
import tracemalloc
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.codecs.compression import check_encoding, decompress
from service.codecs.oip import DATATYPES, datatype, read_raw, read_request, write_answer
from service.errors import EncodingError, InvalidError, MalformedError, RequestError, TooLargeError
from tests.service.protocol_client import tensor

Array = npt.NDArray[Any]

shapes = arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)
tensors = st.sampled_from(list(DATATYPES.values())).flatmap(lambda dtype: arrays.arrays(dtype, shapes))


def same(first: Array, second: Array) -> bool:
    return (first.dtype, first.shape, first.tobytes()) == (second.dtype, second.shape, second.tobytes())


def document(**changes: Any) -> dict[str, Any]:
    """A request of two rows as JSON, with changes to its input."""
    given = {"name": "x", "shape": [2, 2], "datatype": "UINT8", "data": [1, 2, 3, 4]} | changes
    return {"inputs": [{key: value for key, value in given.items() if value is not None}]}


def encoded(**changes: Any) -> bytes:
    return json.dumps(document(**changes)).encode()


def binary(size: Any, **changes: Any) -> bytes:
    return encoded(data=None, parameters={"binary_data_size": size}, **changes)


def assert_refused(body: bytes, length: int | None, kind: type[RequestError], place: str | None, problem: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_request(body, length)
    assert type(caught.value) is kind
    assert caught.value.location == place
    assert re.search(problem, caught.value.detail), caught.value.detail


# Round trips


@given(st.lists(tensors, min_size=1, max_size=4), st.data())
def test_what_the_client_writes_is_read(sent: list[Array], data: st.DataObject) -> None:
    ways = [data.draw(st.booleans()) for _ in sent]
    inputs = [tensor(array, f"input {i}", binary=way) for i, (array, way) in enumerate(zip(sent, ways, strict=True))]
    body, length = triton.InferenceServerClient.generate_request_body(inputs, request_id="é7", parameters={"seed": 3})
    read = read_request(body, length)
    assert (read.id, read.parameters) == ("é7", {"binary_data_output": True, "seed": 3})
    assert list(read.inputs) == [f"input {i}" for i in range(len(sent))]
    for array, way, got in zip(sent, ways, read.inputs.values(), strict=True):
        assert way is False or same(got, array)
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(got, array)


@given(st.lists(tensors, min_size=1, max_size=4), st.data())
def test_what_is_written_the_client_reads(answer: list[Array], data: st.DataObject) -> None:
    named = {f"output {i}": array for i, array in enumerate(answer)}
    ways = {name for name in named if data.draw(st.booleans())}
    body, length = write_answer({"model_name": "m"}, named, ways)
    assert (length is None) == (not ways)
    read = triton.InferenceServerClient.parse_response_body(body, header_length=length)
    assert read.get_response()["model_name"] == "m"
    for name, array in named.items():
        got = read.as_numpy(name)
        if name in ways:
            assert same(got, array)
        elif array.dtype.kind == "f":  # JSON has no infinity: it is null, as NaN is.
            np.testing.assert_array_equal(got, np.where(np.isfinite(array), array, np.nan))
        else:
            np.testing.assert_array_equal(got, array)


@given(tensors)
def test_nested_data_is_flat_data(array: Array) -> None:
    given = {"name": "x", "shape": array.shape, "datatype": datatype(array.dtype.name)}
    flat, nested = (
        read_request(json.dumps({"inputs": [{**given, "data": data}]}).encode(), None).inputs["x"]
        for data in (array.ravel().tolist(), array.tolist())
    )
    assert same(flat, nested)


def test_strides_and_byte_orders_are_written_out() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    for odd in (array.T, array[:, ::2], array.astype(">f4")):
        for way in ({"y"}, set()):
            body, length = write_answer({}, {"y": odd}, way)
            read = triton.InferenceServerClient.parse_response_body(body, header_length=length)
            np.testing.assert_array_equal(read.as_numpy("y"), odd)


@pytest.mark.parametrize("text", ["NaN", "null"])
def test_missing_numbers(text: str) -> None:
    body = encoded(datatype="FP64", data=["here", 1, math.inf, -math.inf]).replace(b'"here"', text.encode())
    np.testing.assert_array_equal(read_request(body, None).inputs["x"], [[np.nan, 1], [np.inf, -np.inf]])


@given(st.integers(0, 4), st.sampled_from([("uint8", (2, 3)), ("float32", ()), ("float64", (5,))]))
def test_raw_bodies_are_rows(rows: int, kind: tuple[str, tuple[int, ...]]) -> None:
    dtype, row = kind
    array = np.arange(rows * math.prod(row), dtype=dtype).reshape(rows, *row)
    read = read_raw(array.tobytes(), "x", dtype, row)
    assert same(read.inputs["x"], array)
    assert read.parameters == {"binary_data_output": True}
    with pytest.raises(MalformedError, match="a row of x has"):
        read_raw(array.tobytes() + b"\0" * (array.itemsize * math.prod(row) - 1 or 9), "x", "float64", (5,))


@given(st.binary(max_size=200), st.none() | st.integers(-3, 250))
def test_any_bytes_are_read_or_refused(body: bytes, length: int | None) -> None:
    with pytest.raises(RequestError):
        read_request(body, length)


@given(st.data())
def test_a_damaged_request_is_read_or_refused(data: st.DataObject) -> None:
    body, length = triton.InferenceServerClient.generate_request_body(
        [tensor(np.arange(6.0).reshape(2, 3), "x"), tensor(np.arange(3), "y", binary=False)]
    )
    at = data.draw(st.integers(0, len(body) - 1))
    damaged = body[:at] + data.draw(st.binary(max_size=3)) + body[at + 1 :]
    try:
        read = read_request(damaged, length)
    except RequestError:
        return
    assert all(array.dtype in DATATYPES.values() for array in read.inputs.values())


# Malformed


MALFORMED: dict[str, tuple[bytes, int | None, type[RequestError], str | None, str]] = {
    "negative header": (encoded(), -1, MalformedError, "body", "a JSON header of -1 bytes"),
    "header beyond the body": (encoded(), 10**6, MalformedError, "body", "a JSON header of 1,000,000 bytes"),
    "header too short": (encoded(), 10, MalformedError, None, "not readable JSON"),
    "header too long": (binary(4) + bytes(4), len(binary(4)) + 1, MalformedError, None, "not readable JSON"),
    "not JSON": (b"\xff", None, MalformedError, None, "not UTF-8"),
    "nothing": (b"", None, MalformedError, None, "not readable JSON"),
    "nested": (b"[" * 10**5, None, MalformedError, None, "nested too deeply"),
    "key twice": (b'{"inputs": [], "inputs": []}', None, MalformedError, None, "'inputs' occurs twice"),
    "short data": (binary(4) + b"123", len(binary(4)), MalformedError, "inputs[0]", "4 bytes of data; 3 are left"),
    "no data": (binary(4), None, MalformedError, "inputs[0]", "4 bytes of data; 0 are left"),
    "leftover bytes": (binary(4) + b"12345", len(binary(4)), MalformedError, "body", "1 bytes are left over"),
    "leftover JSON": (encoded() + b"1", len(encoded()), MalformedError, "body", "1 bytes are left over"),
    "size and shape": (
        binary(3) + b"123",
        len(binary(3)),
        InvalidError,
        "inputs[0]",
        r"3 bytes are no UINT8 of shape \[2, 2\]: 4 are",
    ),
    "size and datatype": (
        binary(4, datatype="FP32") + b"1234",
        len(binary(4, datatype="FP32")),
        InvalidError,
        "inputs[0]",
        "16 are",
    ),
    "negative size": (binary(-1), None, InvalidError, "inputs[0].parameters.binary_data_size", "greater than or equal"),
    "size no number": (binary("4"), None, InvalidError, "inputs[0].parameters.binary_data_size", "integer"),
    "negative dimension": (encoded(shape=[-2, -2]), None, InvalidError, "inputs[0].shape[0]", "greater than or equal"),
    "variable dimension": (encoded(shape=[2, -1]), None, InvalidError, "inputs[0].shape[1]", "greater than or equal"),
    "dimension no number": (encoded(shape=[2, "2"]), None, InvalidError, "inputs[0].shape[1]", "integer"),
    "dimension a bool": (encoded(shape=[True, 4]), None, InvalidError, "inputs[0].shape[0]", "integer"),
    "dimension too large": (encoded(shape=[2**63]), None, InvalidError, "inputs[0].shape[0]", "less than"),
    "too many dimensions": (encoded(shape=[1] * 65), None, InvalidError, "inputs[0].shape", "at most 8"),
    "overflow": (encoded(shape=[2**32, 2**32]), None, InvalidError, "inputs[0].data", "18,446,744,073,709,551,616"),
    "binary overflow": (
        binary(0, shape=[2**32, 2**32]),
        None,
        InvalidError,
        "inputs[0]",
        "0 bytes are no UINT8 .*: 18,446,744,073,709,551,616 are",
    ),
    "nothing of a great size": (
        encoded(shape=[0, 2**62, 2**62], data=[]),
        None,
        InvalidError,
        "inputs[0].shape",
        "no array has the shape",
    ),
    "BYTES": (encoded(datatype="BYTES"), None, InvalidError, "inputs[0].datatype", "'BYTES' is not read; UINT8, "),
    "binary BYTES": (binary(0, datatype="BYTES"), None, InvalidError, "inputs[0].datatype", "'BYTES' is not read"),
    "BOOL": (encoded(datatype="BOOL"), None, InvalidError, "inputs[0].datatype", "'BOOL' is not read"),
    "shared memory": (
        encoded(data=None, parameters={"shared_memory_region": "r"}),
        None,
        InvalidError,
        "inputs[0].parameters.shared_memory_region",
        "shared memory is not used",
    ),
    "no values": (encoded(data=None), None, InvalidError, "inputs[0]", "either data or"),
    "values twice": (encoded(parameters={"binary_data_size": 0}), None, InvalidError, "inputs[0]", "either data or"),
    "flat and short": (encoded(data=[1, 2, 3]), None, InvalidError, "inputs[0].data", "an array of 4 values, not 3"),
    "ragged": (encoded(data=[[1, 2], [3]]), None, InvalidError, "inputs[0].data[1]", "an array of 2 values, not 1"),
    "half nested": (encoded(data=[[1, 2], 3]), None, InvalidError, "inputs[0].data[1]", "not a single value"),
    "nested too far": (encoded(data=[[1, 2], [3, [4]]]), None, InvalidError, "inputs[0].data[1][1]", "whole number"),
    "string": (encoded(data=[1, 2, "3", 4]), None, InvalidError, "inputs[0].data[2]", "must be a whole number"),
    "boolean": (encoded(data=[1, 2, 3, True]), None, InvalidError, "inputs[0].data[3]", "must be a whole number"),
    "fraction": (encoded(data=[1, 2, 3, 4.5]), None, InvalidError, "inputs[0].data[3]", "must be a whole number"),
    "NaN": (encoded(data=[[1, math.nan], [3, 4]]), None, InvalidError, "inputs[0].data[0][1]", "whole number"),
    "256": (encoded(data=[1, 256, 3, 4]), None, InvalidError, "inputs[0].data[1]", "too large for UINT8"),
    "-1": (encoded(data=[1, 2, 3, -1]), None, InvalidError, "inputs[0].data[3]", "too large for UINT8"),
    "1e39": (
        encoded(datatype="FP32", data=[1, 2, 3, 1e39]),
        None,
        InvalidError,
        "inputs[0].data[3]",
        "too large for FP32",
    ),
    "10^400": (
        encoded(datatype="FP64", data=[1, 10**400, 3, 4]),
        None,
        InvalidError,
        "inputs[0].data[1]",
        "too large for FP64",
    ),
    "the least that is infinite": (
        encoded(datatype="FP64", data=[1, 2**1024 - 2**970 - 1, 3, 2**970 - 2**1024]),
        None,
        InvalidError,
        "inputs[0].data[3]",
        "too large for FP64",
    ),
    "null for a fraction": (
        encoded(datatype="FP64", data=[1, "1", None, 4]),
        None,
        InvalidError,
        "inputs[0].data[1]",
        "must be a number",
    ),
    "a list": (b"[]", None, InvalidError, "body", "instance of InferRequest"),
    "no inputs": (b"{}", None, InvalidError, "inputs", "required"),
    "misspelt member": (
        b'{"inputs": [], "input": 1}',
        None,
        InvalidError,
        "input",
        "is unknown; did you mean 'inputs'",
    ),
    "misspelt parameter": (
        encoded(parameters={"binary_size": 1}),
        None,
        InvalidError,
        "inputs[0].parameters.binary_size",
        "is unknown; did you mean 'binary_data_size'",
    ),
    "id no string": (b'{"inputs": [], "id": 7}', None, InvalidError, "id", "string"),
    "surrogate": (b'{"inputs": [], "id": "\\ud800"}', None, InvalidError, "id", "string"),
    "input twice": (
        json.dumps({"inputs": document()["inputs"] * 2}).encode(),
        None,
        InvalidError,
        "inputs[1]",
        "'x' occurs twice",
    ),
    "output twice": (
        json.dumps(document() | {"outputs": [{"name": "y"}, {"name": "y"}]}).encode(),
        None,
        InvalidError,
        "outputs[1]",
        "'y' occurs twice",
    ),
    "classification": (
        json.dumps(document() | {"outputs": [{"name": "y", "parameters": {"classification": 3}}]}).encode(),
        None,
        InvalidError,
        "outputs[0].parameters.classification",
        "no output is a class",
    ),
}


@pytest.mark.parametrize(("body", "length", "kind", "place", "problem"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(body: bytes, length: int | None, kind: type[RequestError], place: str | None, problem: str) -> None:
    assert_refused(body, length, kind, place, problem)


# Compression


def deflated(body: bytes) -> bytes:
    return zlib.compress(body)


CODINGS = {"gzip": gzip.compress, "deflate": deflated}


@given(st.binary(max_size=1000), st.sampled_from(list(CODINGS)))
def test_compressed_bodies_come_back(body: bytes, coding: str) -> None:
    assert decompress(CODINGS[coding](body), coding, len(body)) == body
    with pytest.raises(TooLargeError, match="more than"):
        decompress(CODINGS[coding](body + b"!"), coding, len(body))


@pytest.mark.parametrize("coding", CODINGS)
def test_a_bomb_does_not_go_off(coding: str) -> None:
    bomb = CODINGS[coding](bytes(2**28))
    assert len(bomb) < 2**19
    tracemalloc.start()
    with pytest.raises(TooLargeError, match="more than 1,000 bytes when decompressed"):
        decompress(bomb, coding, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21  # The bomb itself, which zlib keeps, and a little.


@pytest.mark.parametrize("coding", CODINGS)
def test_damaged_compression(coding: str) -> None:
    good = CODINGS[coding](b"body")
    for damaged in (b"", good[:-1], good + b"\0", good + good, b"body", good[:-6] + b"????" + good[-2:]):
        with pytest.raises(MalformedError, match=f"{coding} body"):
            decompress(damaged, coding, 1000)


def test_unknown_codings_are_named() -> None:
    with pytest.raises(EncodingError, match="'br' bodies are not read; send gzip, deflate, or plain") as caught:
        check_encoding("br")
    assert caught.value.known == ("gzip", "deflate")
