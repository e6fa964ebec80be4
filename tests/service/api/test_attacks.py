"""Requests made to hurt: each is refused with its status, costs little memory, and leaves the service as it was."""

import gzip
import io
import json
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from tests.conftest import Serve, process_of
from tests.service.attacks import ARROW, BODIES, JSON, MEBIBYTE, NPY, arrow, zeros
from tests.service.load import ONE
from tests.service.processes import peak, reset_peak

if sys.platform != "linux":
    pytest.skip("memory is read under /proc", allow_module_level=True)

BODY = 8 * MEBIBYTE
"""Most bytes that the service under attack reads."""

ROOM = 160 * MEBIBYTE
"""By how much its memory may ever rise: an attack that goes off takes half a gibibyte or more."""


@dataclass(frozen=True)
class Victim:
    """A service, and what it answers to a request that is in order."""

    client: httpx.Client
    pid: int
    good: bytes

    def peak(self) -> int:
        return peak(self.pid)

    def send_request(self) -> bytes:
        return self.client.post("/elbo", json={"instances": [ONE]}).raise_for_status().content


@pytest.fixture(scope="module")
def victim(serve: Serve) -> Iterator[Victim]:
    with serve("--max-body", str(BODY), "--engine-threads", "1", "--timeout", "20") as client:
        victim = Victim(client, process_of(client), b"")
        yield replace(victim, good=victim.send_request())


# Bodies


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_more_than_it_seems(victim: Victim, name: str) -> None:
    media_type, make, status = BODIES[name]
    body, before = make(), victim.peak()
    answer = victim.client.post("/elbo", content=body, headers={"Content-Type": media_type})
    assert answer.status_code == status, answer.text
    assert len(answer.content) < 5000
    assert victim.peak() - before < ROOM
    assert victim.send_request() == victim.good


@pytest.fixture(scope="module")
def spacious(serve: Serve) -> Iterator[Victim]:
    """A service that reads bodies of the default length."""
    with serve("--engine-threads", "1") as client:
        victim = Victim(client, process_of(client), b"")
        yield replace(victim, good=victim.send_request())


@pytest.mark.parametrize("piece", [b"[],", b"[1],", b"{},", b'"%d":0,'])
@pytest.mark.parametrize("path", ["/elbo", "/v2/models/digits/infer"])
def test_json_of_very_many_pieces_is_not_taken_apart(spacious: Victim, path: str, piece: bytes) -> None:
    """As many as there is room for in 64 MiB; each would take some hundred bytes."""
    limit = 64 * MEBIBYTE - 100
    if b"%d" in piece:
        content = b'{"instances": [{' + b"".join(piece % i for i in range(limit // 12)) + b'"x": 0}]}'
    else:
        content = b'{"instances": [' + piece * (limit // len(piece)) + b"0]}"
    reset_peak(spacious.pid)
    before = spacious.peak()
    answer = spacious.client.post(path, content=content, headers={"Content-Type": JSON})
    assert answer.status_code == 413, answer.text
    # The service reads less of the Open Inference Protocol's JSON before it counts anything in it.
    assert ("are read as JSON" if path == "/elbo" else "are read, send binary data") in answer.text
    assert spacious.peak() - before < 3 * len(content)
    assert spacious.send_request() == spacious.good


@pytest.mark.parametrize("path", ["/elbo", "/v2/models/digits/infer"])
@pytest.mark.parametrize(("coding", "wbits"), [("gzip", 31), ("deflate", 15)])
def test_a_compression_bomb(victim: Victim, path: str, coding: str, wbits: int) -> None:
    body, before = zeros(512, wbits), victim.peak()
    answer = victim.client.post(path, content=body, headers={"Content-Encoding": coding})
    assert answer.status_code == 413, answer.text
    assert victim.peak() - before < ROOM
    assert victim.send_request() == victim.good


def test_a_bomb_in_a_bomb_is_bytes(victim: Victim) -> None:
    body = gzip.compress(zeros(256, 31))
    answer = victim.client.post("/v2/models/digits/infer", content=body, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 400, answer.text
    assert victim.send_request() == victim.good


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
    request = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
    with socket.create_connection(("127.0.0.1", victim.client.base_url.port or 0), 10) as raw:
        raw.sendall(request.encode())
        answer = b"".join(iter(lambda: raw.recv(1 << 16), b""))
    assert re.match(rb"HTTP/1.1 4\d\d ", answer), answer
    assert b"root:" not in answer
    assert victim.send_request() == victim.good


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
        "num_draws=1&num_draws=2",
        "num_draws=\u0661".encode().decode("latin-1"),
    ],
)
def test_no_parameter_is_too_much(victim: Victim, query: str) -> None:
    before = victim.peak()
    answer = victim.client.post(f"/elbo?{query}", json={"instances": [ONE]})
    assert answer.status_code in {413, 422}, answer.text
    assert victim.peak() - before < ROOM
    assert victim.send_request() == victim.good


def test_no_query_has_too_many_parameters(victim: Victim) -> None:
    """The service compares each unknown parameter with all known ones."""
    for number, said in ((100, "is no parameter"), (101, "more than 100 parameters")):
        answer = victim.client.post("/elbo?" + "&".join(f"p{i}=1" for i in range(number)), json={"instances": [ONE]})
        assert (answer.status_code, said in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize(
    "query",
    [
        f"n={10**9}",
        f"n={'9' * 4300}",
        f"temperature={'9' * 4300}",
        "n=0",
        "temperature=inf",
        "temperature=nan",
        "temperature=1e9",
    ],
)
def test_no_sample_is_too_large(victim: Victim, query: str) -> None:
    assert victim.client.get(f"/sample?{query}").status_code in {413, 422}
    assert victim.send_request() == victim.good


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
    assert victim.send_request() == victim.good


@pytest.mark.parametrize("member", ["num_draws", "seed", "refine", "timeout", "priority", "shape", "binary_data_size"])
def test_no_number_of_the_protocol_is_too_long(victim: Victim, member: str) -> None:
    tensor: dict[str, Any] = {"name": "x", "shape": [1, 8, 8], "datatype": "UINT8", "data": [0] * 64}
    document: dict[str, Any] = {"inputs": [tensor], "parameters": {}}
    long = 10**4300 - 1
    if member == "shape":
        tensor["shape"] = [long, 8, 8]
    elif member == "binary_data_size":
        tensor["parameters"] = {"binary_data_size": long}
    else:
        document["parameters"] = {member: long}
    answer = victim.client.post("/v2/models/digits/infer", json=document)
    assert answer.status_code == 400, answer.text
    assert member in answer.json()["error"]
    assert victim.send_request() == victim.good


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
    assert victim.send_request() == victim.good
