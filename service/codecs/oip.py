"""Tensors on the wire: the Open Inference Protocol's JSON header, and the binary data that may follow it.

    {"id": "7", "parameters": {...}, "inputs": [{"name", "shape", "datatype", "data": [...]},
                                                {"name", "shape", "datatype", "parameters": {"binary_data_size": 64}}]}
    64 bytes: little-endian, row-major, nothing between one tensor's and the next one's

The header `Inference-Header-Content-Length` says where the JSON ends.
"""

import itertools
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from service.bundle import Array
from service.codecs.json import read_json
from service.codecs.oip_messages import InferInput, InferRequest, TensorParameters
from service.errors import InvalidError, MalformedError

DATATYPES = {
    f"{name}{8 * size}": np.dtype(f"<{kind}{size}")
    for name, kind, sizes in (("UINT", "u", (1, 2, 4, 8)), ("INT", "i", (1, 2, 4, 8)), ("FP", "f", (2, 4, 8)))
    for size in sizes
}
"""The protocol's names of the numbers that are read and written; BOOL, BYTES and BF16 are not."""

_NAMES = {dtype: name for name, dtype in DATATYPES.items()}

_INFINITE = 2**1024 - 2**970
"""The least whole number that float64 rounds to infinity."""


@dataclass(frozen=True)
class Inference:
    """What a request asks for.

    Attributes:
        inputs: The tensors sent, by name.
        parameters: As sent.
        outputs: For each output asked for, in that order, whether as binary data (None: as the request says for all);
            empty: all there are.
        id: To be echoed.
    """

    inputs: Mapping[str, Array]
    parameters: Mapping[str, Any]
    outputs: Mapping[str, bool | None]
    id: str | None = None


def datatype(dtype: str) -> str:
    """The protocol's name of a NumPy dtype."""
    return _NAMES[np.dtype(dtype)]


def read_request(body: bytes, header_length: int | None) -> Inference:
    """A request from its bytes, of which the first `header_length` are JSON; all of them, if it is None.

    Raises:
        MalformedError: The header's length is not that of a header, it is not JSON, or bytes are missing or left over.
        InvalidError: It is JSON, but not a request, or a tensor's data and its shape and datatype disagree.
    """
    length = len(body) if header_length is None else header_length
    if not 0 <= length <= len(body):
        raise MalformedError(f"a JSON header of {length:,} bytes in a body of {len(body):,}", "body")
    header = InferRequest.check(read_json(body[:length], constants=True))
    inputs: dict[str, Array] = {}
    for i, tensor in enumerate(header.inputs):
        place, size = f"inputs[{i}]", tensor.parameters.binary_data_size
        _check_parameters(tensor.parameters, place)
        if tensor.name in inputs:
            raise InvalidError(f"the input {tensor.name!r} occurs twice", place)
        if (tensor.data is None) == (size is None):
            raise InvalidError("must have either data or parameters.binary_data_size", place)
        if size is None:
            inputs[tensor.name] = _from_list(tensor, place)
        else:
            if size > len(body) - length:
                raise MalformedError(f"{size:,} bytes of data; {len(body) - length:,} are left in the body", place)
            inputs[tensor.name] = _from_bytes(tensor, body, length, size, place)
            length += size
    if length < len(body):
        raise MalformedError(f"{len(body) - length:,} bytes are left over after the last input", "body")
    return Inference(inputs, header.parameters, _wanted(header), header.id)


def read_raw(body: bytes, name: str, dtype: str, row: tuple[int, ...]) -> Inference:
    """A request that is one input's data and nothing else: rows of that shape, as many as there are bytes for.

    Raises:
        MalformedError: The bytes are no whole number of rows.
    """
    kind = DATATYPES[datatype(dtype)]
    size = kind.itemsize * math.prod(row)
    if len(body) % size:
        raise MalformedError(f"{len(body):,} bytes; a row of {name} has {size:,}", "body")
    rows = np.frombuffer(body, kind).reshape(-1, *row)
    return Inference({name: rows}, {"binary_data_output": True}, {})


def write_answer(
    header: Mapping[str, object], arrays: Mapping[str, Array | Sequence[str | None]], binary: Container[str]
) -> tuple[bytes, int | None]:
    """The bytes of an answer and the length of their JSON part, None where that is all; NaN in JSON is null.

    Args:
        header: What the JSON says beside the outputs.
        arrays: The outputs, in order; texts are BYTES, empty for None.
        binary: The names of those to be sent as binary data.
    """
    outputs: list[dict[str, object]] = []
    blobs: list[bytes] = []
    for name, array in arrays.items():
        values = array if isinstance(array, np.ndarray) else np.array([text or "" for text in array], object)
        kind = "BYTES" if values.dtype.kind == "O" else datatype(values.dtype.name)
        output: dict[str, object] = {"name": name, "datatype": kind, "shape": values.shape}
        if name in binary:
            blobs.append(_to_bytes(values, kind))
            output["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            output["data"] = values.astype(values.dtype.newbyteorder("="), copy=False).ravel()
        outputs.append(output)
    # orjson itself writes arrays of numbers alone.
    document = orjson.dumps({**header, "outputs": outputs}, np.ndarray.tolist, orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([document, *blobs]), len(document) if blobs else None


def _to_bytes(values: Array, kind: str) -> bytes:
    if kind != "BYTES":
        return values.astype(DATATYPES[kind], copy=False).tobytes()
    texts = [text.encode() for text in values]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _wanted(header: InferRequest) -> dict[str, bool | None]:
    wanted: dict[str, bool | None] = {}
    for i, output in enumerate(header.outputs):
        if output.name in wanted:
            raise InvalidError(f"the output {output.name!r} occurs twice", f"outputs[{i}]")
        _check_parameters(output.parameters, f"outputs[{i}]")
        if output.parameters.classification is not None:
            raise InvalidError("no output is a class: ask for the numbers", f"outputs[{i}].parameters.classification")
        wanted[output.name] = output.parameters.binary_data
    return wanted


def _check_parameters(parameters: TensorParameters, place: str) -> None:
    if parameters.shared_memory_region is not None:
        raise InvalidError("shared memory is not used: send the values", f"{place}.parameters.shared_memory_region")


def _dtype(tensor: InferInput, place: str) -> np.dtype[Any]:
    if tensor.datatype not in DATATYPES:
        raise InvalidError(f"{tensor.datatype!r} is not read; {', '.join(DATATYPES)} are", f"{place}.datatype")
    return DATATYPES[tensor.datatype]


def _from_bytes(tensor: InferInput, body: bytes, offset: int, size: int, place: str) -> Array:
    dtype, count = _dtype(tensor, place), math.prod(tensor.shape)
    if size != count * dtype.itemsize:
        raise InvalidError(
            f"{size:,} bytes are no {tensor.datatype} of shape {tensor.shape}: {count * dtype.itemsize:,} are", place
        )
    return _reshape(np.frombuffer(body, dtype, count, offset), tensor.shape, place)


def _from_list(tensor: InferInput, place: str) -> Array:
    dtype = _dtype(tensor, place)
    values, where = _flatten(tensor.data or [], tensor.shape, f"{place}.data")

    def refuse(wrong: Callable[[Any], bool], problem: str) -> None:
        for i, value in enumerate(values):
            if wrong(value):
                raise InvalidError(problem, where(i))

    whole, numbers = dtype.kind in "iu", (int,) if dtype.kind in "iu" else (int, float, type(None))
    if not set(map(type, values)) <= set(numbers):
        refuse(lambda value: type(value) not in numbers, f"must be a {'whole ' if whole else ''}number")
    if whole:
        limits = np.iinfo(dtype)
        if values and not (limits.min <= min(values) and max(values) <= limits.max):
            refuse(lambda value: not limits.min <= value <= limits.max, f"is too large for {tensor.datatype}")
        return _reshape(np.array(values, dtype), tensor.shape, place)
    try:
        wide = np.array(values, np.float64)  # Makes null NaN.
    except OverflowError as error:
        first = next(i for i, value in enumerate(values) if type(value) is int and abs(value) >= _INFINITE)
        raise InvalidError(f"is too large for {tensor.datatype}", where(first)) from error
    with np.errstate(over="ignore"):
        array = wide.astype(dtype)
    if (lost := np.isinf(array) & ~np.isinf(wide)).any():
        raise InvalidError(f"is too large for {tensor.datatype}", where(int(np.argmax(lost))))
    return _reshape(array, tensor.shape, place)


def _flatten(data: list[Any], shape: list[int], place: str) -> tuple[list[Any], Callable[[int], str]]:
    """The values of flat data, or of lists nested as the shape says, in row-major order; and where the i-th stands."""
    sizes = shape if data and isinstance(data[0], list) else [math.prod(shape)]

    def where(i: int, depth: int = len(sizes)) -> str:
        return place + "".join(f"[{index}]" for index in np.unravel_index(i, sizes[:depth]))

    values: list[Any] = [data]
    for depth, size in enumerate(sizes):
        for i, value in enumerate(values):
            if not isinstance(value, list) or len(value) != size:
                what = f"{len(value):,}" if isinstance(value, list) else "a single value"
                raise InvalidError(f"must be an array of {size:,} values, not {what}", where(i, depth))
        values = list(itertools.chain.from_iterable(values))
    return values, where


def _reshape(array: Array, shape: list[int], place: str) -> Array:
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError) as error:  # Nothing of a size that no array can have, as (0, 2**62, 8).
        raise InvalidError(f"no array has the shape {shape}: {error}", f"{place}.shape") from error
