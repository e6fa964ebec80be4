"""Memory and time for bodies and answers: how many bytes all requests may hold, and how fast large bodies come in."""

import asyncio
from collections.abc import Callable
from operator import itemgetter
from typing import Any, cast

from service.errors import OverloadedError

UNCOUNTED = 2**16
"""Bytes of a body or an answer that there is always room for; `max_connections` bounds how many there are."""

LARGEST_BODIES = 4
"""Bodies of the largest size that there is room for."""

LARGEST_ANSWERS = 2
"""Answers of the size of the largest body that there is room for, until their clients have taken them."""

MAX_ANSWER = 2**27
"""Bytes of arrays that one answer may have, however small bodies must be. Few bytes may ask for many pictures."""

RATE = 2**27
"""Bytes a second that are read of all large bodies together. Beyond that a client waits, as on a slower network, and
leaves the event loop and the processors to smaller requests."""

SLOWEST = 2**22
"""Bytes a second that a client takes of its answer on average, or it may lose the room for it to others. Within the
default time limit, the largest answer takes as many."""

GRACE = 1.0
"""Seconds before that."""

_RETRY_AFTER = 1.0


class ByteBudget:
    """Counts the bytes that requests hold, each from its first large piece to its end.

    Args:
        limit: Most bytes of all requests. A request that is alone may hold more.
        kind: What the bytes are, for people.
    """

    def __init__(self, limit: int, kind: str) -> None:
        self._limit = limit
        self._kind = kind
        self._held: dict[asyncio.Task[Any], int] = {}
        self._due: dict[asyncio.Task[Any], Callable[[], float]] = {}  # When others may have the room.
        self._total = 0
        self._next = 0.0  # The loop's time at which more may be read of large bodies.

    def take(self, size: int) -> None:
        """Count more bytes for the request of this task.

        Raises:
            OverloadedError: Other requests hold so many that there is no room.
        """
        if self._lacks(size):
            self._give_up_slow_clients(size)
        if self._lacks(size):
            detail = f"requests hold {self._total:,} bytes of {self._kind}, {self._limit:,} at most"
            raise OverloadedError(detail, _RETRY_AFTER)
        self.add(size)

    def add(self, size: int) -> None:
        """Count bytes that are held already; fewer, if they are negative."""
        task = _request()
        if task not in self._held:
            self._held[task] = 0
            task.add_done_callback(self._release)
        self._held[task] += size
        self._total += size

    def hold(self, size: int, before: int = 0) -> int:
        """Count the bytes of an answer, in place of those counted for it before; returns how many: 0 of a small one.

        Raises:
            OverloadedError: See `take`.
        """
        held = size if size > UNCOUNTED else 0
        if held > before:
            self.take(held - before)
        elif held < before:
            self.add(held - before)
        return held

    def watch(self, taken: Callable[[], int]) -> None:
        """Let others have the room of this request if its client is slow to take the answer.

        Args:
            taken: Returns how many bytes of it the client has taken.
        """
        began = asyncio.get_running_loop().time()
        self._due[_request()] = lambda: began + GRACE + taken() / SLOWEST

    async def pause(self, size: int) -> None:
        """Wait until more may be read, after so many bytes of a large body."""
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now) + size / RATE
        await asyncio.sleep(self._next - now)

    def _lacks(self, size: int) -> bool:
        return self._total + size > self._limit and self._total > self._held.get(_request(), 0)

    def _give_up_slow_clients(self, size: int) -> None:
        """Make room for so many bytes more, if slow clients hold them; the slowest ones are given up first."""
        now, slow = asyncio.get_running_loop().time(), [(due(), task) for task, due in self._due.items()]
        for due, task in sorted(slow, key=itemgetter(0)):
            if due > now or not self._lacks(size):
                break
            task.cancel()
            self._release(task)

    def _release(self, task: asyncio.Task[Any]) -> None:
        self._total -= self._held.pop(task, 0)
        self._due.pop(task, None)


def _request() -> asyncio.Task[Any]:
    return cast(asyncio.Task[Any], asyncio.current_task())
