"""Bodies made to hurt: each takes little to send, and would take much to believe."""

import io
import json
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from PIL import Image

MEBIBYTE = 2**20

FILE = "application/octet-stream"
ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"
NPY = "application/x-npy"


def zeros(mebibytes: int, wbits: int) -> bytes:
    """So many MiB of zeros, compressed a thousandfold."""
    packer = zlib.compressobj(9, wbits=wbits)
    block = bytes(MEBIBYTE)
    return b"".join(packer.compress(block) for _ in range(mebibytes)) + packer.flush()


def png(side: int) -> bytes:
    """A picture of one colour, which takes next to nothing."""
    body = io.BytesIO()
    Image.new("1", (side, side)).save(body, "PNG")
    return body.getvalue()


def scans(number: int) -> bytes:
    """A progressive JPEG picture whose last scan is repeated, each of which takes as long as the pixels are many."""
    body = io.BytesIO()
    Image.new("L", (4096, 4096)).save(body, "JPEG", progressive=True)
    jpeg = body.getvalue()
    return jpeg[:-2] + number * jpeg[jpeg.rindex(b"\xff\xda") : -2] + jpeg[-2:]


def npy(shape: str, descr: str = "'|u1'", padding: int = 0) -> bytes:
    """The head of an array and nothing else."""
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode() + b" " * padding + b"\n"
    return b"\x93NUMPY\x02\x00" + len(head).to_bytes(4, "little") + head


ROWS = 1_234_567
"""Of the arrays that `arrow` lies about: a number that occurs nowhere else in a stream."""


def arrow(column: pa.Array, name: str = "instances", rows: int | None = None) -> bytes:
    """A stream of one column; with `rows`, wherever it says `ROWS` it says that many."""
    body = io.BytesIO()
    batch = pa.record_batch([column], names=[name])
    with pa.ipc.new_stream(body, batch.schema) as writer:
        writer.write_batch(batch)
    stream = body.getvalue()
    if rows is None:
        return stream
    assert stream.count(ROWS.to_bytes(8, "little")) > 0
    return stream.replace(ROWS.to_bytes(8, "little"), rows.to_bytes(8, "little"))


def empty_batches(number: int) -> bytes:
    """A stream of so many batches without rows."""
    schema = pa.schema([("instances", pa.list_(pa.float64(), 64))])
    body = io.BytesIO()
    writer = pa.ipc.new_stream(body, schema)
    start = body.tell()
    writer.write_batch(pa.RecordBatch.from_pylist([], schema=schema))
    return body.getvalue()[:start] + number * body.getvalue()[start:] + b"\xff\xff\xff\xff\0\0\0\0"


def dictionary_of_lists() -> pa.Array:
    """One list, said again by each byte."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array([0.0] * 64), 64)
    return pa.DictionaryArray.from_arrays(pa.array(bytes(7 * MEBIBYTE), pa.uint8()), lists)


def packed(method: int, array: bytes | None = None) -> bytes:
    """An `.npz` file of one array, or else of one picture."""
    body, picture = io.BytesIO(), io.BytesIO()
    np.save(picture, np.zeros((1, 8, 8)))
    with zipfile.ZipFile(body, "w", method) as file:
        file.writestr("X.npy", picture.getvalue() if array is None else array)
    return body.getvalue()


def encrypted() -> bytes:
    """An `.npz` file that says so."""
    whole = bytearray(packed(zipfile.ZIP_STORED))
    for place in (6, whole.rindex(b"PK\1\2") + 8):
        whole[place] |= 1
    return bytes(whole)


def run_length() -> pa.Array:
    """One value, said to repeat."""
    return pa.RunEndEncodedArray.from_arrays(pa.array([ROWS], pa.int64()), pa.array([1.0]))


def decimal() -> pa.Array:
    """A number with more places than any number has."""
    return pa.Array.from_buffers(pa.decimal128(38, 2**30), 1, [None, pa.py_buffer(bytes(16))])


BODIES: dict[str, tuple[str, Callable[[], bytes], int]] = {
    "npy of terabytes": (NPY, lambda: npy("(1000000000000, 8, 8)"), 400),
    "npy of more than there are numbers": (NPY, lambda: npy(f"({10**30}, 8, 8)"), 400),
    "npy of many dimensions": (NPY, lambda: npy("(" + "1, " * 10**5 + ")"), 400),
    "npy of a wide type": (NPY, lambda: npy("(1,)", "'|V4000000000'"), 400),
    "npy of nested fields": (NPY, lambda: npy("(1,)", "[('a', " * 1000 + "'|u1'" + ")]" * 1000), 422),
    "npy with a long head": (NPY, lambda: npy("(1, 8, 8)", padding=7 * MEBIBYTE), 400),
    "Arrow nulls without end": (ARROW, lambda: arrow(pa.nulls(ROWS), rows=10**12), 422),
    "Arrow nulls beyond numbers": (ARROW, lambda: arrow(pa.nulls(ROWS), rows=2**63 - 1), 422),
    "Arrow lists of nothing": (
        ARROW,
        lambda: arrow(pa.array([[]] * 10, pa.list_(pa.null(), 0)).take(pa.array([0]))),
        422,
    ),
    "Arrow runs without end": (ARROW, lambda: arrow(run_length(), rows=10**12), 422),
    "Arrow nulls as a table": (ARROW, lambda: arrow(pa.nulls(ROWS), "age", rows=10**12), 422),
    "Arrow lists in a dictionary": (ARROW, lambda: arrow(dictionary_of_lists()), 422),
    "npz by bzip2, which may pack a millionfold": (FILE, lambda: packed(zipfile.ZIP_BZIP2), 400),
    "npz by LZMA": (FILE, lambda: packed(zipfile.ZIP_LZMA), 400),
    "npz encrypted": (FILE, encrypted, 400),
    "npz of terabytes": (FILE, lambda: packed(zipfile.ZIP_STORED, npy("(1000000000000, 8, 8)")), 400),
    "npz with a deep head": (FILE, lambda: packed(zipfile.ZIP_STORED, npy("(" + "-" * 9000 + "1,)")), 400),
    "IDX of no picture of any size": (FILE, lambda: b"\0\0\x08\x03" + bytes(4) + b"\xff" * 8, 400),
    "Arrow dates after the calendar": (ARROW, lambda: arrow(pa.array([2**31 - 1], pa.int32()).view(pa.date32())), 422),
    "Arrow dates in lists": (ARROW, lambda: arrow(pa.array([[2**40]], pa.list_(pa.timestamp("s")))), 422),
    "Arrow decimals beyond all places": (ARROW, lambda: arrow(decimal()), 400),
    "PNG of a gigapixel": ("image/png", lambda: png(20_000), 413),
    "JPEG of many scans": ("image/jpeg", lambda: scans(900), 413),
    "JSON of deep arrays": (JSON, lambda: b'{"instances":' + b"[" * 10**6, 400),
    "JSON of deep objects": (JSON, lambda: b'{"instances":' + b'{"a":' * 10**6, 413),
    "JSON of one long number": (JSON, lambda: b'{"instances": [[' + b"9" * 7 * MEBIBYTE + b"]]}", 413),
    "JSON of empty arrays": (JSON, lambda: b'{"instances": [' + b"[]," * (MEBIBYTE // 2) + b"[]]}", 413),
    "JSON of escapes": (JSON, lambda: b'{"instances": "' + b"\\ud800" * MEBIBYTE + b'"}', 422),
    "JSON of many keys": (JSON, lambda: json.dumps({str(i): 0 for i in range(500_000)}).encode(), 422),
}
"""By what they are: media type, what makes the body, and the status that `POST /elbo` answers."""
