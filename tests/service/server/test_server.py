"""The end of a server: clients with a request are answered, new ones are refused, and the end comes in time."""

import contextlib
import os
import resource
import signal
import socket
import time
from functools import partial
from pathlib import Path
from typing import Self

import orjson
import pytest

from tests import warm
from tests.conftest import wait_until
from tests.service.bundle_versions import publish
from tests.service.processes import address_space, servers
from tests.service.sockets import BODY, LIVE, Client, asked, post, work

until = partial(wait_until, seconds=10)


class Process:
    """A service whose process can be told to stop."""

    def __init__(self, tmp_path: Path, *arguments: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.log = tmp_path / "log"
        self._process = warm.start(["service", "--port", str(self.port), *arguments], self.log)

    def __enter__(self) -> Self:
        wait_until(lambda: asked(self.port, LIVE) == 200, 60, OSError)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    def all(self) -> set[int]:
        """Its processes."""
        return {self._process.pid} | self.serving()

    def serving(self) -> set[int]:
        """Those that serve: its workers, if it has any."""
        return servers(self._process.pid) or {self._process.pid}

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def hang_up(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    def status(self, seconds: float) -> int:
        """How it exits, within that time."""
        return self._process.wait(seconds)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_requests_under_way_are_answered_before_the_end(tmp_path: Path, workers: str) -> None:
    arguments = ("--workers", workers, "--max-queue", "100000000")
    with Process(tmp_path, *arguments) as process, contextlib.ExitStack() as stack:
        busy = [stack.enter_context(Client(process.port)) for _ in range(6)]
        half, idle = (stack.enter_context(Client(process.port)) for _ in range(2))
        half.send(post(BODY)[:9])
        for client in busy:
            client.send(work(1000))
        busy[0].send(LIVE.replace(b"live", b"ready"))
        time.sleep(0.5)  # By now they are being computed.
        idle.send(LIVE)
        status, headers, _ = idle.answer()
        assert (status, "connection" in headers) == (200, False)
        process.stop()
        assert idle.closed(5)
        half.send(post(BODY)[9:])
        until(lambda: refused(process.port))
        answers = [client.answer() for client in (*busy, half)]
        assert [status for status, _, _ in answers] == [200] * 7
        assert "connection" not in answers[0][1]
        assert [headers.get("connection") for _, headers, _ in answers[1:]] == ["close"] * 6
        status, headers, body = busy[0].answer()
        assert (status, headers["connection"]) == (503, "close")
        assert orjson.loads(body)["detail"] == "the service is shutting down"
        for _ in range(2):  # A client that asks once more, not knowing, may lose that request, not the answer.
            time.sleep(0.1)
            busy[1].send(LIVE)
        assert busy[1].closed()
        stack.close()
        assert process.status(10) == 0


def refused(port: int) -> bool:
    try:
        with Client(port):
            return False
    except ConnectionRefusedError:
        return True


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_who_has_connected_is_answered_before_the_end(tmp_path: Path, workers: int) -> None:
    with Process(tmp_path, "--workers", str(workers)) as process, contextlib.ExitStack() as stack:
        until(lambda: process.log.read_text().count("serving digits 1") == workers)
        kept = stack.enter_context(Client(process.port))
        kept.send(LIVE)
        assert "connection" not in kept.answer()[1]
        for pid in process.all():
            os.kill(pid, signal.SIGSTOP)
        clients = [stack.enter_context(Client(process.port)) for _ in range(20)]
        for client in (kept, *clients):
            client.send(post(BODY))
        process.stop()
        for pid in process.all():
            os.kill(pid, signal.SIGCONT)
        assert {client.answer()[0] for client in (kept, *clients)} == {200}
        assert process.status(10) == 0


def test_who_connects_while_the_port_closes_is_answered(tmp_path: Path) -> None:
    with Process(tmp_path) as process, Client(process.port) as kept:
        process.stop()
        status = 200
        while status == 200:
            kept.send(LIVE.replace(b"live", b"ready"))
            status = kept.answer()[0]
        with Client(process.port) as late:
            until(lambda: refused(process.port))
            time.sleep(0.2)
            late.send(LIVE)
            status, headers, _ = late.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert process.status(10) == 0


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_the_end_does_not_wait_longer_than_told(tmp_path: Path, workers: str) -> None:
    arguments = (
        "--workers",
        workers,
        "--graceful-shutdown-timeout",
        "1",
        "--max-queue",
        "100000000",
        "--timeout",
        "600",
    )
    with Process(tmp_path, *arguments) as process, Client(process.port) as client:
        client.send(work(100_000))
        time.sleep(0.5)
        process.stop()
        status, headers, body = client.answer()
        assert (status, headers["connection"]) == (503, "close")
        assert orjson.loads(body)["detail"] == "the service is shutting down"
        assert process.status(10) == 0


@pytest.mark.parametrize("delay", [0.05, *(pytest.param(delay, marks=pytest.mark.slow) for delay in (0.0, 0.2))])
def test_a_version_that_loads_does_not_disturb_the_end(tmp_path: Path, delay: float) -> None:
    models = tmp_path / "models"
    publish(models, 1)
    with Process(tmp_path, "--models", str(models), "--poll", "0") as process:
        for version in range(2, 8):
            publish(models, version)
        process.hang_up()
        time.sleep(delay)
        process.stop()
        assert process.status(20) == 0
        assert "Traceback" not in process.log.read_text()


def test_the_end_needs_no_thread(tmp_path: Path) -> None:
    with Process(tmp_path) as process:
        for pid in process.all():
            resource.prlimit(pid, resource.RLIMIT_AS, (address_space(pid), resource.RLIM_INFINITY))
        process.stop()
        assert process.status(10) == 0
    assert "Traceback" not in process.log.read_text()
