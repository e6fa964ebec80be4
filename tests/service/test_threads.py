"""Threads beside the event loop, and a system that has none left."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from service.errors import NotReadyError
from service.threads import in_thread


@pytest.fixture
def no_threads() -> Iterator[None]:
    """Let no thread start: none can have so large a stack."""
    before = threading.stack_size(2**46)
    yield
    threading.stack_size(before)


def test_the_outcome_of_a_function_is_returned() -> None:
    assert asyncio.run(in_thread(lambda: 3)) == 3


@pytest.mark.usefixtures("no_threads")
def test_without_threads_the_client_is_asked_to_come_again() -> None:
    with pytest.raises(NotReadyError, match="no thread can be started"):
        asyncio.run(in_thread(lambda: 3))
