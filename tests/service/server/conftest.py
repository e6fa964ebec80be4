"""Servers with the usual patience for their clients, and with little."""

from collections.abc import Iterator

import pytest

from tests.conftest import Serve
from tests.service.sockets import port_of


@pytest.fixture(scope="module")
def patient(serve: Serve) -> Iterator[int]:
    """The port of a server with the usual patience."""
    with serve() as client:
        yield port_of(client)


@pytest.fixture(scope="module")
def impatient(serve: Serve) -> Iterator[int]:
    """The port of a server that waits a second for its clients, and serves six at once."""
    with serve("--read-timeout", "1", "--max-connections", "6", "--max-queue", "100000000") as client:
        client.close()
        yield port_of(client)
