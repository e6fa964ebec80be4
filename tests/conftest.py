"""Fixtures shared by all tests: real server processes, and the client that talks to them."""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import HealthCheck, settings
from prometheus_client.parser import text_string_to_metric_families
from xdist.scheduler import LoadFileScheduling, Scheduling

from tests import warm

if TYPE_CHECKING:
    from tests.s3 import S3

JSON = {"Content-Type": "application/json"}
"""Bodies are JSON unless a test says otherwise."""

SHARING = "tests/oracle/", "tests/training/card/"
"""Folders whose files share models that take long to export: one process tests all of a folder."""

Serve = Callable[..., AbstractContextManager[httpx.Client]]

# Nothing that hypothesis tries is too slow on a busy machine.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

_processes: dict[int, int] = {}
"""By port, the servers of `run_server`."""


@contextmanager
def run_server(
    *arguments: str, log: Path, program: Sequence[str] = ("service",), **settings: str
) -> Iterator[httpx.Client]:
    """Run `python -m service` with these arguments and environment on a free port, and give a client of it."""
    with socket.socket() as probe, httpx.Client(headers=JSON, timeout=60) as client:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # The server may listen while this holds the port.
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        client.base_url = httpx.URL(f"http://127.0.0.1:{port}")
        process = warm.start([*program, "--port", str(port), *arguments], log, **settings)
        _processes[port] = process.pid
        try:
            _wait_until_ready(client, process, log)
            yield client
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_until_ready(client: httpx.Client, process: warm.Process, log: Path) -> None:
    for _ in range(3000):
        if process.poll() is not None:
            break
        with suppress(httpx.TransportError):
            if client.get("/health/ready").is_success:
                return
        time.sleep(0.02)
    pytest.fail(f"the service did not start:\n{log.read_text()}")


def wait_until(
    condition: Callable[[], object],
    seconds: float,
    ignoring: type[Exception] | tuple[type[Exception], ...] = (),
    pause: float = 0.02,
) -> None:
    """Wait for a condition; the exceptions that are ignored say that it does not hold yet.

    Args:
        condition: Asked until it holds.
        seconds: At most so long.
        ignoring: Exceptions of the condition.
        pause: Seconds between two questions.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except ignoring:
            pass
        assert time.monotonic() < deadline
        time.sleep(pause)


def process_of(client: httpx.Client) -> int:
    """The server that a client from `run_server` talks to."""
    return _processes[client.base_url.port or 0]


def samples(metrics: str) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels, these in the order of their names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
    }


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--server", choices=("plain", "ray"), default="plain", help="what the fixture `serve` starts")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests that train begin: they take longest, and all processes are to end at the same time."""
    items.sort(key=lambda item: "training" not in item.path.parts)


@pytest.fixture(scope="session")
def serve(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Start a server of its own, given flags, for the length of a `with` block."""

    def start(*arguments: str) -> AbstractContextManager[httpx.Client]:
        return run_server(*arguments, log=tmp_path_factory.mktemp("server") / "log")

    if request.config.getoption("--server") == "plain":
        yield start
    else:
        from tests.service.ray_serve.machines import machines  # noqa: PLC0415 - Ray, which else nothing here needs

        with machines(2) as found:
            yield found.serve


@pytest.fixture(scope="session")
def digits(serve: Serve) -> Iterator[httpx.Client]:
    """A client of a server of the embedded default bundle."""
    with serve() as client:
        yield client


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator["S3"]:
    """An S3 server."""
    from tests.s3 import S3  # noqa: PLC0415 - few tests need its packages

    server = S3(tmp_path_factory.mktemp("s3") / "log")
    yield server
    server.kill()


class _Scheduling(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return next((folder for folder in SHARING if file.startswith(folder)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return _Scheduling(config, log)
