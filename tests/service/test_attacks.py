"""Requests made to hurt: each is refused with its status, costs little memory, and leaves the service as it was."""

import gzip
import io
import json
import re
import socket
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests.conftest import Serve, process_of

if sys.platform != "linux":
    pytest.skip("memory is read under /proc", allow_module_level=True)

MEBIBYTE = 2**20
BODY = 8 * MEBIBYTE
"""Most bytes that the service under attack reads."""

ROOM = 160 * MEBIBYTE
"""By how much its memory may ever rise: an attack that goes off takes half a gibibyte or more."""

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"
NPY = "application/x-npy"


@dataclass(frozen=True)
class Victim:
    """A service, and what it answers to a request that is in order."""

    client: httpx.Client
    pid: int
    good: bytes

    def peak(self) -> int:
        """Most bytes that were ever resident."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", status)[0])

    def ask(self) -> bytes:
        return self.client.post("/elbo", json={"instances": [ONE]}).raise_for_status().content


ONE = [[0] * 8 for _ in range(8)]


@pytest.fixture(scope="module")
def victim(serve: Serve) -> Iterator[Victim]:
    with serve("--max-body", str(BODY), "--lanes", "1", "--timeout", "20") as client:
        victim = Victim(client, process_of(client), b"")
        yield replace(victim, good=victim.ask())


# Bodies


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


def run_length() -> pa.Array:
    """One value, said to repeat."""
    return pa.RunEndEncodedArray.from_arrays(pa.array([ROWS], pa.int64()), pa.array([1.0]))


BODIES = {
    "npy of terabytes": (NPY, npy("(1000000000000, 8, 8)"), 400),
    "npy of more than there are numbers": (NPY, npy(f"({10**30}, 8, 8)"), 400),
    "npy of many dimensions": (NPY, npy("(" + "1, " * 10**5 + ")"), 400),
    "npy of a wide type": (NPY, npy("(1,)", "'|V4000000000'"), 400),
    "npy of nested fields": (NPY, npy("(1,)", "[('a', " * 1000 + "'|u1'" + ")]" * 1000), 400),
    "npy with a long head": (NPY, npy("(1, 8, 8)", padding=7 * MEBIBYTE), 400),
    "Arrow nulls without end": (ARROW, arrow(pa.nulls(ROWS), rows=10**12), 422),
    "Arrow nulls beyond numbers": (ARROW, arrow(pa.nulls(ROWS), rows=2**63 - 1), 422),
    "Arrow lists of nothing": (ARROW, arrow(pa.array([[]] * 10, pa.list_(pa.null(), 0)).take(pa.array([0]))), 422),
    "Arrow runs without end": (ARROW, arrow(run_length(), rows=10**12), 422),
    "Arrow nulls as a table": (ARROW, arrow(pa.nulls(ROWS), "age", rows=10**12), 422),
    "PNG of a gigapixel": ("image/png", png(20_000), 400),
    "JSON of deep arrays": (JSON, b'{"instances":' + b"[" * 10**6, 400),
    "JSON of deep objects": (JSON, b'{"instances":' + b'{"a":' * 10**6, 400),
    "JSON of one long number": (JSON, b'{"instances": [[' + b"9" * 7 * MEBIBYTE + b"]]}", 400),
    "JSON of empty arrays": (JSON, b'{"instances": [' + b"[]," * (MEBIBYTE // 2) + b"[]]}", 422),
    "JSON of escapes": (JSON, b'{"instances": "' + b"\\ud800" * MEBIBYTE + b'"}', 422),
    "JSON of many keys": (JSON, json.dumps({str(i): 0 for i in range(500_000)}).encode(), 422),
}


@pytest.mark.parametrize(("media_type", "body", "status"), BODIES.values(), ids=BODIES.keys())
def test_a_body_that_is_more_than_it_seems(victim: Victim, media_type: str, body: bytes, status: int) -> None:
    before = victim.peak()
    answer = victim.client.post("/elbo", content=body, headers={"Content-Type": media_type})
    assert answer.status_code == status, answer.text
    assert len(answer.content) < 5000
    assert victim.peak() - before < ROOM
    assert victim.ask() == victim.good


@pytest.mark.parametrize(("coding", "wbits"), [("gzip", 31), ("deflate", 15)])
def test_a_compression_bomb(victim: Victim, coding: str, wbits: int) -> None:
    body, before = zeros(512, wbits), victim.peak()
    headers = {"Content-Encoding": coding}
    answer = victim.client.post("/v2/models/digits/infer", content=body, headers=headers)
    assert (answer.status_code, answer.headers["Content-Type"]) == (413, JSON), answer.text
    assert victim.peak() - before < ROOM
    assert victim.client.post("/elbo", content=body, headers=headers).status_code == 415
    assert victim.ask() == victim.good


def test_a_bomb_in_a_bomb_is_bytes(victim: Victim) -> None:
    body = gzip.compress(zeros(256, 31))
    answer = victim.client.post("/v2/models/digits/infer", content=body, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 400, answer.text
    assert victim.ask() == victim.good


# Addresses and parameters


@pytest.mark.parametrize(
    "path",
    [
        "/models/../elbo",
        "/models/..%2f..%2fetc%2fpasswd/elbo",
        "/models/%2e%2e/versions/1/elbo",
        "/models/digits/versions/../../elbo",
        "/models/digits/versions/%00/elbo",
        "/models/digits/versions/1%20/elbo",
        "/models/digits%00/elbo",
        "/models//elbo",
        "//elbo",
        "/v2/models/../../etc/passwd",
        "/v2/models/digits.%2e%2e/infer",
        "/v2/models/digits/versions/-1/infer",
        "/v2/models/digits/versions/99999999999999999999/infer",
        "/models/" + "a" * 20_000 + "/elbo",
        "/%ff%fe/elbo",
    ],
)
def test_no_path_leads_out(victim: Victim, path: str) -> None:
    request = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
    with socket.create_connection(("127.0.0.1", victim.client.base_url.port or 0), 10) as raw:
        raw.sendall(request.encode())
        answer = b"".join(iter(lambda: raw.recv(1 << 16), b""))
    assert re.match(rb"HTTP/1.1 4\d\d ", answer), answer
    assert b"root:" not in answer
    assert victim.ask() == victim.good


@pytest.mark.parametrize(
    "query",
    [
        f"num_draws={10**9}",
        f"num_draws={10**400}",
        "num_draws=-1",
        "num_draws=1e9",
        f"refine={10**9}",
        f"seed={2**70}",
        "seed=-1",
        "fdr=nan",
        "fdr=1e-400",
        "score=__class__",
        "explain=" + "a" * 10_000,
        "&".join(f"p{i}=1" for i in range(3000)),
        "%00=1",
        "num_draws=\u0661".encode().decode("latin-1"),
    ],
)
def test_no_parameter_is_too_much(victim: Victim, query: str) -> None:
    before = victim.peak()
    answer = victim.client.post(f"/elbo?{query}", json={"instances": [ONE]})
    assert answer.status_code in {413, 422}, answer.text
    assert victim.peak() - before < ROOM
    assert victim.ask() == victim.good


@pytest.mark.parametrize("query", [f"n={10**9}", "n=0", "temperature=inf", "temperature=nan", "temperature=1e9"])
def test_no_sample_is_too_large(victim: Victim, query: str) -> None:
    assert victim.client.get(f"/sample?{query}").status_code in {413, 422}
    assert victim.ask() == victim.good


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Accept", ",".join(f"a/{i};q=0.{i}" for i in range(3000))),
        ("Content-Type", "application/json;" + "a=b;" * 8000),
        ("Content-Type", "\u00ff" * 100),
        ("X-Request-ID", "a" * 30_000),
        ("Inference-Header-Content-Length", "9" * 4000),
    ],
)
def test_no_header_is_too_much(victim: Victim, name: str, value: str) -> None:
    headers = {"Content-Type": JSON} | {name: value.encode("latin-1")}
    for path in ("/elbo", "/v2/models/digits/infer"):
        answer = victim.client.post(path, content=json.dumps({"instances": [ONE]}), headers=headers)
        assert answer.status_code < 500, answer.text
    assert victim.ask() == victim.good


# Values


def test_no_number_that_is_none_gets_through(victim: Victim) -> None:
    for value in (np.nan, np.inf, -np.inf):
        image = np.full((1, 8, 8), 3.0)
        image[0, 3, 4] = value
        body = io.BytesIO()
        np.save(body, image)
        tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(image)
        forms = {NPY: body.getvalue(), ARROW: arrow(tensors)}
        for media_type, content in forms.items():
            answer = victim.client.post("/elbo", content=content, headers={"Content-Type": media_type})
            assert (answer.status_code, answer.json()["location"]) == (422, "instances[0][3][4]")
        head = {
            "inputs": [{"name": "x", "shape": [1, 8, 8], "datatype": "FP64", "parameters": {"binary_data_size": 512}}]
        }
        text = json.dumps(head).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))}
        answer = victim.client.post("/v2/models/digits/infer", content=text + image.tobytes(), headers=headers)
        assert answer.status_code == 400, answer.text
    for literal in ("NaN", "Infinity", "-Infinity", "1e999"):
        content = json.dumps({"instances": [ONE]}).replace("0", literal, 1)
        assert victim.client.post("/elbo", content=content).status_code in {400, 422}
    assert victim.ask() == victim.good
