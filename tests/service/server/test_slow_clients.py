"""Clients that are slow, too many or gone: the service gives them up, and keeps no other client waiting."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from functools import partial

import orjson
import pytest
from fastapi import FastAPI
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from service.server.connection import MAX_PIPELINED, Connection
from service.server.crowd import Crowd
from service.settings import Settings
from tests.conftest import Serve, wait_until
from tests.service.sockets import BODY, LIVE, ROW, Client, asked, port_of, post, work

CHUNKED = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
"""The head of a request whose body comes in chunks."""

until = partial(wait_until, seconds=10)


def drip(client: Client, request: bytes, pause: float = 0.2) -> None:
    """Send a byte at a time until the server has had enough."""
    client.socket.settimeout(pause)
    for i in range(len(request)):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.send(request[i : i + 1])
        try:
            client._received += client.socket.recv(1 << 16)
            break
        except TimeoutError:
            pass
    client.socket.settimeout(30)


@pytest.mark.parametrize("promptly", [b"", post(BODY).removesuffix(BODY)])
def test_slow_senders_are_given_up(impatient: int, promptly: bytes) -> None:
    with Client(impatient) as client:
        started = time.monotonic()
        client.send(promptly)
        drip(client, post(BODY).removeprefix(promptly))
        status, headers, body = client.answer()
        assert (status, headers["connection"]) == (408, "close")
        assert orjson.loads(body)["detail"] == "not received in time"
        assert client.closed()
        assert 1 < time.monotonic() - started < 5


def test_a_request_has_its_time_from_the_first_byte_on() -> None:
    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        app = FastAPI()
        app.state.settings, app.state.refuse, app.state.draining = Settings(read_timeout=10), None, False
        config = Config(app, proxy_headers=False)
        config.load()
        ours, theirs = socket.socketpair()
        with theirs:
            make = partial(Connection, config, Crowd(), {}, loop)
            transport, connection = await loop.connect_accepted_socket(make, ours)
            connection.data_received(b"G")
            left = connection.deadline - loop.time()
            transport.close()
            await asyncio.sleep(0)
        return left

    assert 0 < asyncio.run(scenario()) <= 10


def test_slow_bodies_of_chunks_are_given_up(impatient: int) -> None:
    with Client(impatient) as client:
        client.send(CHUNKED)
        drip(client, b"1\r\n{\r\n" * 10)
        assert client.answer()[0] == 408


def test_a_sender_that_makes_progress_is_not_given_up(impatient: int) -> None:
    request = post(BODY + b" " * 20_000)
    with Client(impatient) as client:
        for start in range(0, len(request), 1500):
            client.send(request[start : start + 1500])
            time.sleep(0.25)
        assert client.answer()[0] == 200


def test_a_sender_that_stops_is_given_up_however_much_it_has_sent(impatient: int) -> None:
    with Client(impatient) as client:
        client.send(post(bytes(2**20))[:-1])
        started = time.monotonic()
        assert client.answer()[0] == 408
        assert time.monotonic() - started < 5


def test_a_client_that_asks_nothing_is_left_without_a_word(impatient: int) -> None:
    with Client(impatient) as client:
        assert client.closed(5)


def test_a_slow_sender_does_not_undo_what_it_asked_before(serve: Serve) -> None:
    with serve("--read-timeout", "0.5") as client, Client(port_of(client)) as slow:
        slow.send(work(4000), b"GET /health/l")
        assert [slow.answer()[0] for _ in range(2)] == [200, 408]
        assert slow.closed()


@pytest.fixture(scope="module")
def crowded(serve: Serve) -> Iterator[int]:
    """The port of a server that serves fifty at once, and waits long for each."""
    with serve("--read-timeout", "600", "--max-connections", "50") as client:
        client.close()
        yield port_of(client)


@pytest.mark.parametrize("sent", [b"", b"P", LIVE, post(BODY).removesuffix(BODY)], ids=["", "head", "idle", "body"])
def test_slow_clients_keep_nobody_else_out(crowded: int, sent: bytes) -> None:
    """The connection that has kept the service waiting for longest makes room for another one."""
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(Client(crowded)) for _ in range(100)]
        for one in slow:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                one.send(sent)
        started = time.monotonic()
        for _ in range(20):
            assert asked(crowded, post(BODY)) == 200
        assert time.monotonic() - started < 5


@pytest.mark.slow
def test_an_idle_connection_is_kept_for_a_proxy(impatient: int) -> None:
    with Client(impatient) as client:
        client.send(LIVE)
        assert client.answer()[0] == 200
        time.sleep(7)  # uvicorn's limit is five seconds.
        client.send(post(BODY))
        assert client.answer()[0] == 200


def test_a_client_that_takes_no_answer_is_left(serve: Serve) -> None:
    with serve("--read-timeout", "1") as client, Client(port_of(client), receive_buffer=4096) as deaf:
        for _ in range(50):
            deaf.send(b"GET /sample?n=4000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deaf.socket.settimeout(1)
        until(lambda: is_reset(deaf), seconds=20)


def is_reset(client: Client) -> bool:
    try:
        client.send(LIVE)
    except OSError:
        return True
    return False


def test_connections_are_limited(impatient: int) -> None:
    with contextlib.ExitStack() as stack:
        busy = [stack.enter_context(Client(impatient)) for _ in range(6)]
        for client in busy:
            client.send(work(300))
        surplus = stack.enter_context(Client(impatient))
        surplus.send(LIVE)
        status, headers, problem = surplus.answer()
        assert (status, headers["connection"]) == (503, "close")
        assert b"6 connections are open" in problem
        assert surplus.closed()
        assert [client.answer()[0] for client in busy] == [200] * 6
        until(lambda: asked(impatient, LIVE) == 200)


def test_only_so_many_requests_wait_for_those_before_them(patient: int) -> None:
    with Client(patient) as client:
        client.send(work(300) + MAX_PIPELINED * LIVE)
        assert [client.answer()[0] for _ in range(1 + MAX_PIPELINED)] == [200] * (1 + MAX_PIPELINED)
        client.send(work(300) + 9000 * LIVE)
        assert [client.answer()[0] for _ in range(2 + MAX_PIPELINED)] == [200] * (1 + MAX_PIPELINED) + [429]
        assert client.closed()


@pytest.mark.parametrize("size", [0, *(pytest.param(n * HIGH_WATER_LIMIT + 1, marks=pytest.mark.slow) for n in (1, 3))])
def test_a_request_ends_with_its_connection(serve: Serve, size: int) -> None:
    with serve("--max-queue", "400000", "--engine-threads", "1", "--timeout", "600") as client:
        port = port_of(client)
        large = post(orjson.dumps({"instances": [ROW] * 1000}).ljust(size), path=b"/elbo?num_draws=400")
        like = post(orjson.dumps({"instances": [ROW] * 126}), path=b"/elbo?num_draws=400")  # Shares its room.
        with Client(port) as busy:
            busy.send(large)  # Fills the queue, for much longer than is waited here.
            time.sleep(1)  # Asked before that, the other would keep this one out.
            until(lambda: asked(port, like) == 429)
        until(lambda: asked(port, like) == 200, seconds=60)
