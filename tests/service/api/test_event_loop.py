"""Nothing that a client sends keeps the others waiting, or takes more memory than there is room for."""

import asyncio
import gzip
import io
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest

from service.api.budget import RATE, ByteBudget
from tests.conftest import Serve, process_of, wait_until
from tests.service.attacks import ARROW, FILE, JSON, MEBIBYTE, NPY, arrow, empty_batches, scans, zeros
from tests.service.http_client import npy
from tests.service.load import ONE
from tests.service.processes import peak

LIMIT = 0.2
"""Seconds in which a health check is answered, beside any other request."""

ATTEMPTS = 3
"""Times that a request is made, where other processes of the machine may have delayed the health checks."""

ROW = json.dumps(ONE).encode()


def integers() -> bytes:
    """One instance of 31 million numbers."""
    return b'{"instances": [[' + b"1," * (31 * MEBIBYTE) + b"1]]}"


def one_null() -> bytes:
    """16 MiB of pictures, of which the last lacks a pixel."""
    return b'{"instances": [%b%b]}' % ((ROW + b",") * (16 * MEBIBYTE // len(ROW)), ROW.replace(b"0", b"null", 1))


def tensor(rows: int) -> bytes:
    values = b",".join([b"1.5"] * (64 * rows))
    return b'{"inputs": [{"name": "x", "shape": [%d, 8, 8], "datatype": "FP64", "data": [%b]}]}' % (rows, values)


def archive() -> bytes:
    body = io.BytesIO()
    np.savez_compressed(body, X=np.zeros((4_000_000, 8, 8), np.uint8))
    return body.getvalue()


Make = Callable[[], bytes]
ELBO, INFER, PICTURE = "/elbo", "/v2/models/digits/infer", "image/png"
GZIP = {"Content-Encoding": "gzip"}

LATENTS = b'{"inputs": [{"name": "z", "shape": [40000, 16], "datatype": "FP32", "data": %s}]}' % (
    json.dumps([0] * 16 * 40_000).encode()
)

HOSTILE: dict[str, tuple[str, dict[str, str], Make]] = {
    "JPEG of 900 scans": (ELBO, {"Content-Type": "image/jpeg"}, lambda: scans(900)),
    "JPEG of 26 scans of 16 megapixels": ("/instances", {"Content-Type": "image/jpeg"}, lambda: scans(20)),
    "31 million integers": (ELBO, {"Content-Type": JSON}, integers),
    "31 million integers, compressed": (ELBO, {"Content-Type": JSON, **GZIP}, lambda: gzip.compress(integers(), 1)),
    "one null": (ELBO, {"Content-Type": JSON}, one_null),
    "one null, marked": ("/instances?on_error=mark", {"Content-Type": JSON}, one_null),
    "records": (ELBO, {"Content-Type": JSON}, lambda: b'{"instances": [' + b'{"a": 1},' * 10**5 + b"{}]}"),
    "tensor in JSON": (INFER, {"Content-Type": JSON}, lambda: tensor(60_000)),
    "larger tensor in JSON": (INFER, {"Content-Type": JSON}, lambda: tensor(200_000)),
    "wrong rows, marked": (
        "/instances?on_error=mark",
        {"Content-Type": NPY},
        lambda: npy(np.full((50_000, 8, 8), 99, np.uint8)),
    ),
    "many rows": ("/encode", {"Content-Type": NPY}, lambda: npy(np.zeros((200_000, 8, 8), np.uint8))),
    "many draws": ("/encode?num_draws=4096", {"Content-Type": NPY}, lambda: npy(np.zeros((64, 8, 8), np.uint8))),
    "many latents": ("/decode?draw=true", {"Content-Type": NPY}, lambda: npy(np.zeros((100_000, 16), np.float32))),
    "empty Arrow batches": (ELBO, {"Content-Type": ARROW}, lambda: empty_batches(414_000)),
    "Arrow bits": (ELBO, {"Content-Type": ARROW}, lambda: arrow(pa.array(np.ones(2**24 - 1, bool)))),
    "gzip bomb": (ELBO, {"Content-Type": JSON, **GZIP}, lambda: zeros(512, 31)),
    "zip bomb": (ELBO, {"Content-Type": FILE}, archive),
    "IDX bomb": (ELBO, {"Content-Type": FILE}, lambda: zeros(256, 31)),
    "parts": (ELBO, {"Content-Type": "multipart/form-data; boundary=a"}, lambda: b"--a\r\n\r\n" * 10**6),
    "sample": ("/sample?n=262144", {}, bytes),
    "sample as PNG": ("/sample?n=262144", {"Accept": PICTURE}, bytes),
}
"""By what they are: path, headers, and what makes the body; without one, it is a GET."""


WATCH = """
import http.client, sys, time
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
while True:
    began = time.monotonic()
    connection.request("GET", "/health/live")
    assert connection.getresponse().read()
    seconds = time.monotonic() - began
    print(began, seconds, flush=True)
    time.sleep(max(0, 0.05 - seconds))
"""
"""A client in a process of its own, which is not kept waiting by the one that sends the bodies."""


class Watch:
    """Health checks, one each 50 ms."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def longest(self, since: float) -> float:
        """Seconds that the longest of them took, of those that began later."""
        checks = [[float(number) for number in line.split()] for line in self._log.read_text().splitlines()]
        return max((seconds for began, seconds in checks if began + seconds > since), default=0.0)


@pytest.fixture(scope="module")
def client(serve: Serve) -> Iterator[httpx.Client]:
    with serve("--timeout", "50") as client:
        client.post(ELBO, content=one_null(), headers={"Content-Type": JSON})  # Starts the process for large bodies.
        yield client


@pytest.fixture(scope="module")
def watch(client: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    log = tmp_path_factory.mktemp("watch") / "log"
    command = [sys.executable, "-c", WATCH, str(client.base_url.port)]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output) as process:
        wait_until(lambda: log.stat().st_size, 30)
        yield Watch(log)
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_health_is_answered_whatever_else_is_asked(client: httpx.Client, watch: Watch, name: str) -> None:
    path, headers, make = HOSTILE[name]
    body = make()
    longest = []
    for _ in range(ATTEMPTS):
        began = time.monotonic()
        answer = client.request("POST" if body else "GET", path, content=body or None, headers=headers)
        time.sleep(2 * LIMIT)
        assert answer.status_code in {200, 400, 413, 415, 422}, answer.text[:1000]
        longest.append(watch.longest(began))
        if longest[-1] < LIMIT:
            break
    print(f"{name}: {answer.status_code}, {longest} s")  # noqa: T201 - figures of docs/benchmarks/faults.md
    assert min(longest) < LIMIT


def test_unread_answers_have_a_budget(serve: Serve) -> None:
    """Two of the largest body's size are held; beyond those one is refused or given up, and small ones are sent."""
    largest = 8 * MEBIBYTE
    head = b"%b HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAccept: %b\r\nContent-Length: %d\r\n\r\n%b"
    patience = "--read-timeout", "120"  # None is cut off, for another to take its room.
    with serve("--max-body", str(largest), "--engine-threads", "1", *patience) as client:
        client.get("/sample?n=40000").raise_for_status()  # Starts the process for large answers.
        for request in (
            head % (b"GET /sample?n=40000", NPY.encode(), 0, b""),
            head % (b"GET /sample?n=10000", JSON.encode(), 0, b""),
            head % (b"POST /v2/models/digits.decoder/infer", b"*/*", len(LATENTS), LATENTS),
        ):
            peaks, readers = [], []
            with ExitStack() as held:
                for _ in range(6):
                    reader = held.enter_context(socket.socket())
                    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    reader.connect(("127.0.0.1", client.base_url.port or 0))
                    reader.settimeout(20)
                    reader.sendall(request)
                    readers.append((reader, reader.recv(12)))
                    peaks.append(peak(process_of(client)))
                assert {start[9:] for _, start in readers} <= {b"200", b"429"}
                assert peaks[-1] - peaks[0] < 4 * largest
                client.post(ELBO, json={"instances": [ONE]}).raise_for_status()
                assert 1 <= sum(is_whole(start + rest(reader)) for reader, start in readers) <= 2


def rest(reader: socket.socket) -> bytes:
    """What the server sends until it closes the connection, or has cut it off."""
    pieces = []
    with suppress(ConnectionResetError):
        while piece := reader.recv(2**20):
            pieces.append(piece)
    return b"".join(pieces)


def is_whole(answer: bytes) -> bool:
    """Whether it is an answer of 200, with all of its body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return head[9:12] == b"200" and length is not None and len(body) == int(length[1])


def test_large_bodies_share_one_pace() -> None:
    async def main() -> None:
        budget = ByteBudget(RATE, "bodies")
        await asyncio.gather(*(budget.pause(RATE // 20) for _ in range(4)))

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began >= 4 / 20


@pytest.mark.parametrize("number", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_unfinished_bodies_have_a_budget(serve: Serve, number: int) -> None:
    """Four of the largest are held; those beyond are refused, and small ones are answered."""
    largest = 8 * MEBIBYTE
    head = b"POST /elbo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    head %= NPY.encode(), largest
    patience = "--read-timeout", "120"  # The last of the clients waits for all others.
    with serve("--max-body", str(largest), "--engine-threads", "1", *patience) as client, ExitStack() as held:
        client.post(ELBO, json={"instances": [ONE]}).raise_for_status()
        before, refused = peak(process_of(client)), 0
        senders = [
            held.enter_context(socket.create_connection(("127.0.0.1", client.base_url.port or 0), 10))
            for _ in range(number)
        ]
        for sender in senders:
            sender.sendall(head)
            sender.sendall(bytes(largest - 1))
            sender.settimeout(0.02)
        for sender in senders:
            try:
                answer = sender.recv(2**16)
            except TimeoutError:
                continue
            refused += answer.startswith(b"HTTP/1.1 429 ") and b"retry-after: 1\r\n" in answer.lower()
        assert number - refused <= 8  # Some that were refused may not have said so yet.
        assert peak(process_of(client)) - before < 6 * largest
        client.post(ELBO, json={"instances": [ONE]}).raise_for_status()
        # Bodies that are read at a time may be refused together, on a busy machine all: smaller ones fill the room.
        fill = npy(np.zeros((10_000, 8, 8), np.uint8))
        for _ in range(4 * largest // len(fill)):
            filler = held.enter_context(socket.create_connection(("127.0.0.1", client.base_url.port or 0), 10))
            filler.sendall(head.replace(b"%d" % largest, b"%d" % len(fill)) + fill[:-1])
            filler.settimeout(0.2)
            with suppress(TimeoutError):
                assert filler.recv(12) == b"HTTP/1.1 429"
                break
        answer = client.post(ELBO, content=2 * fill, headers={"Content-Type": NPY})
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
