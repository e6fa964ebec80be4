"""Work beside the event loop, in threads that do not delay the end of the process."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

from service.errors import NotReadyError

T = TypeVar("T")

NICENESS = 10
"""The niceness of threads for large jobs, and of the process for large bodies: small requests then go first where
processors are few."""

FEW = 2**16
"""Random numbers that are drawn within a few milliseconds."""


async def aside(numbers: int, function: Callable[[], T]) -> T:
    """Call the function, in a thread if it makes many numbers: NumPy then lets the event loop go on."""
    return await in_thread(function) if numbers > FEW else function()


async def in_thread(function: Callable[[], T], seconds: float | None = None) -> T:
    """Run the function in a thread of its own, and return or raise its outcome.

    Unlike those of `asyncio.to_thread` such a thread takes no place from others where it hangs, nor is it waited for
    when the process ends.

    Raises:
        NotReadyError: No thread can be started.
        TimeoutError: It has not returned within so many seconds; the thread goes on, and its outcome is dropped.
    """
    async with asyncio.timeout(seconds):
        return await asyncio.wrap_future(start_thread(function))


def start_thread(function: Callable[[], T]) -> Future[T]:
    """Run the function in a thread of its own. It cannot be cancelled. If no thread starts, the outcome is an error."""
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    try:
        Thread(target=run, daemon=True).start()
    except RuntimeError:  # As many run as a container or a user may have.
        outcome.set_exception(NotReadyError("no thread can be started"))
    except MemoryError as error:
        outcome.set_exception(error)
    return outcome
