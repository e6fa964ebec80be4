"""Time limits: the service's own for every request, and one that a request asks for itself."""

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, TypeVar

from service.errors import DeadlineError

T = TypeVar("T")


class TimeLimit:
    """A limit of the same length for all tasks that enter it, so that what entered first is due first.

    One timer serves them all: `asyncio.timeout` sets and cancels one for each, see `docs/decisions/own-shortcuts.md`.

    Raises:
        DeadlineError: On leaving, where the time ran out.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due: dict[asyncio.Task[Any] | None, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._due[asyncio.current_task(loop)] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._end, loop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = asyncio.current_task(self._loop)
        was_ended = self._due.pop(task, None) is None
        if was_ended and task is not None and not task.uncancel() and kind is asyncio.CancelledError:
            raise _deadline(self._seconds) from error

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel the tasks whose time has run out, and wait for the next one's."""
        for task, due in list(self._due.items()):
            if due > loop.time():
                self._timer = loop.call_at(due, self._end, loop)
                return
            del self._due[task]
            if task is not None:
                task.cancel()
        self._timer = None


async def in_time(seconds: float, answer: Awaitable[T]) -> T:
    """The answer, if it comes within so many seconds.

    Raises:
        DeadlineError: It does not.
    """
    try:
        async with asyncio.timeout(seconds) as limit:
            return await answer
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise _deadline(seconds) from error


def _deadline(seconds: float) -> DeadlineError:
    return DeadlineError(f"not answered within {seconds:g} seconds")
