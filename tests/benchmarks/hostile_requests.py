"""Hostile clients, many at once; each function returns the count of answers by status."""

import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import httpx
import numpy as np

from tests.service.attacks import BODIES, zeros
from tests.service.http_client import JSON, NPY, npy
from tests.service.load import ONE

PATIENCE = 20.0
HEAD = b"POST /elbo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-npy\r\nContent-Length: %d\r\n\r\n"
LEFT = "left"
CLOSED = "closed"


def slow_heads(port: int, number: int) -> Counter[str]:
    """Heads of requests that never end, a byte four times a second."""
    with ExitStack() as held:
        senders = [held.enter_context(_connect(port)) for _ in range(number)]
        for sender in senders:
            sender.sendall(b"POST /elbo HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            sender.setblocking(False)
        answers: Counter[str] = Counter()
        deadline = time.monotonic() + PATIENCE
        while senders and time.monotonic() < deadline:
            for sender in list(senders):
                if answer := _trickle(sender):
                    answers[answer] += 1
                    senders.remove(sender)
            time.sleep(0.25)
        answers["still waited for"] += len(senders)
        return +answers


def _trickle(sender: socket.socket) -> str:
    """Send another byte; what came back, if anything has."""
    try:
        sender.send(b"a")
        return _status(sender.recv(1 << 16))
    except BlockingIOError:
        return ""
    except OSError:
        return CLOSED


def many_headers(port: int, number: int) -> Counter[str]:
    """Requests of 100,000 headers, one after the other."""
    head = b"GET /model HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"a%d: b\r\n" % i for i in range(100_000)) + b"\r\n"
    return Counter(_exchange(port, head) for _ in range(number))


def broken_uploads(port: int, number: int) -> Counter[str]:
    """Half of a body, and gone."""
    body = npy(np.zeros((20_000, 8, 8), np.uint8))
    return Counter(_leave(port, HEAD % len(body) + body[: len(body) // 2]) for _ in range(number))


def leavers(port: int, number: int) -> Counter[str]:
    """Requests of two thousand rows whose clients leave at once."""
    body = npy(np.zeros((2000, 8, 8), np.uint8))
    return Counter(_leave(port, HEAD % len(body) + body) for _ in range(number))


def bombs(client: httpx.Client, number: int) -> Counter[str]:
    """Zeros without end, compressed."""
    bodies = {"gzip": zeros(512, 31), "deflate": zeros(512, 15)}
    return Counter(
        str(client.post("/v2/models/digits/infer", content=body, headers={"Content-Encoding": coding}).status_code)
        for _ in range(number // len(bodies))
        for coding, body in bodies.items()
    )


def bodies(client: httpx.Client) -> Counter[str]:
    """All that `attacks.BODIES` has, and numbers that are none."""
    sent = [(media_type, make()) for media_type, make, _ in BODIES.values()]
    sent += [(NPY, npy(np.full((100, 8, 8), value))) for value in (np.nan, np.inf, -np.inf)]
    sent += [(JSON, f'{{"instances": [[[{value}]]]}}'.encode()) for value in ("NaN", "Infinity", "1e999")]
    return Counter(
        str(client.post("/elbo", content=body, headers={"Content-Type": media_type}).status_code)
        for media_type, body in sent
    )


SHORT_QUEUE = ("--max-queue", "4096")
"""Flags of a service whose queue one or two of the crowd's requests fill."""


def crowd(url: httpx.URL, number: int) -> Counter[str]:
    """So many clients at once, five times 128 rows each; each refusal must have a time to return."""

    def send_request(_: int) -> list[str]:
        with httpx.Client(base_url=url, timeout=60) as client:
            return [_told(client.post("/elbo", json={"instances": [ONE] * 128})) for _ in range(5)]

    with ThreadPoolExecutor(number) as pool:
        return Counter(status for answers in pool.map(send_request, range(number)) for status in answers)


def _told(answer: httpx.Response) -> str:
    assert answer.status_code != 429 or int(answer.headers["Retry-After"]) >= 1
    return str(answer.status_code)


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def _exchange(port: int, request: bytes) -> str:
    with _connect(port) as sender:
        with suppress(OSError):  # It has been refused before its end; the answer may still be there.
            sender.sendall(request)
        try:
            return _status(sender.recv(1 << 16))
        except OSError:
            return CLOSED


def _leave(port: int, request: bytes) -> str:
    with _connect(port) as sender:
        sender.sendall(request)
    return LEFT


def _status(received: bytes) -> str:
    return received.split(b" ")[1].decode() if received else CLOSED
