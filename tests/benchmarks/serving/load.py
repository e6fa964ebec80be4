"""A closed-loop load generator: N keep-alive connections, each sending its next request when the last is answered.

Requests are bytes made beforehand, and of an answer only the status and the length are read, so that one core keeps
ahead of any server here; `Load.busy` says how much of that core it took. Sockets under epoll, without an event loop:
Linux only.
"""

import gc
import itertools
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

HOST = "127.0.0.1"
TIMEOUT = 30.0
"""Seconds without any answer after which a server is given up."""

_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


class LoadError(Exception):
    """The server's answer was not the expected one, or there was none."""


@dataclass(frozen=True)
class Exchange:
    """A request as it goes over the wire, and its answer: the body is compared where it is given."""

    request: bytes
    rows: int
    status: int = 200
    body: bytes | None = None


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    head: bytes
    body: bytes


@dataclass(frozen=True)
class Load:
    """What was measured.

    Attributes:
        seconds: From the first counted answer's window to its end.
        rows: Answered in that time.
        latencies: Of every request answered in that time, in seconds.
        busy: The share of its core that the generator used.
    """

    seconds: float
    rows: int
    latencies: Array
    busy: float

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds

    @property
    def requests_per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """Quantiles of the latencies, in seconds."""
        return float(np.quantile(self.latencies, share))


class Connection:
    """One socket, the exchange under way on it, and what has arrived of the answer."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def send(self, exchange: Exchange) -> None:
        """Begin an exchange; the last one has been answered."""
        self.exchange = exchange
        self.started = time.perf_counter()
        self.socket.sendall(exchange.request)

    def receive(self) -> Answer | None:
        """Read what is there; the answer, if that completes it."""
        data = self.socket.recv(1 << 20)
        if not data:
            raise LoadError(f"the connection was closed after {self._received[:200]!r}")
        self._received = received = self._received + data if self._received else data
        end = received.find(_END)
        if end < 0:
            return None
        head = received[:end]
        lower = head.lower()
        at = lower.find(_LENGTH)
        if at < 0:
            raise LoadError(f"an answer without content-length: {head!r}")
        stop = lower.find(b"\r\n", at)
        size = int(lower[at + len(_LENGTH) : stop if stop > 0 else None])
        body = received[end + len(_END) :]
        if len(body) < size:
            return None
        self._received = b""
        return Answer(int(head[9:12]), head, body)


def send_request(port: int, request: bytes) -> Answer:
    """One request on a connection of its own."""
    connection = Connection(port)
    with connection.socket:
        connection.send(Exchange(request, rows=0))
        while (answer := connection.receive()) is None:
            pass
        return answer


def run(port: int, exchanges: Sequence[Exchange], connections: int, seconds: float, warm_up: float = 0.0) -> Load:
    """Keep `connections` requests under way for `seconds`, after `warm_up` seconds that do not count.

    Exchanges are taken in turn, over and over.

    Raises:
        LoadError: An answer was not the expected one.
    """
    turns = itertools.cycle(exchanges)
    by_number: dict[int, Connection] = {}
    latencies: list[float] = []
    rows = 0
    gc.collect()
    gc.disable()
    try:
        with select.epoll() as poll:
            for _ in range(connections):
                connection = Connection(port)
                by_number[connection.socket.fileno()] = connection
                poll.register(connection.socket, select.EPOLLIN)
                connection.send(next(turns))
            begin = time.perf_counter() + warm_up
            used = 0.0
            stop = begin + seconds
            while (now := time.perf_counter()) < stop:
                events = poll.poll(TIMEOUT)
                if not events:
                    raise LoadError(f"no answer in {TIMEOUT:g} seconds")
                for number, _ in events:
                    connection = by_number[number]
                    answer = connection.receive()
                    if answer is None:
                        continue
                    now = time.perf_counter()
                    _check(connection.exchange, answer)
                    if now >= begin:
                        if not used:
                            used = time.process_time()
                        latencies.append(now - connection.started)
                        rows += connection.exchange.rows
                    connection.send(next(turns))
            used = time.process_time() - used
            if not latencies:
                raise LoadError(f"no answer within {seconds:g} seconds")
            return Load(now - begin, rows, np.array(latencies), used / (now - begin))
    finally:
        gc.enable()
        for connection in by_number.values():
            connection.socket.close()


def _check(exchange: Exchange, answer: Answer) -> None:
    if answer.status != exchange.status:
        raise LoadError(f"status {answer.status} instead of {exchange.status}: {answer.body[:300]!r}")
    if exchange.body is not None and answer.body != exchange.body:
        raise LoadError(f"not the answer that was given before: {answer.body[:300]!r}")
