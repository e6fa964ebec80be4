"""The requests under way: how many use a model, and how much work each has room for."""

import asyncio


class Admission:
    """Room for one request, while it is entered.

    Args:
        admitted: How many requests have room, by their cost.
        cost: Of this one.
    """

    def __init__(self, admitted: dict[int, int], cost: int) -> None:
        self._admitted = admitted
        self._cost = cost

    def __enter__(self) -> None:
        self._admitted[self._cost] = self._admitted.get(self._cost, 0) + 1

    def __exit__(self, *error: object) -> None:
        self._admitted[self._cost] -= 1
        if not self._admitted[self._cost]:
            del self._admitted[self._cost]


class Use:
    """The use of a model by requests, each of which enters it."""

    def __init__(self) -> None:
        self._requests = 0
        self._ended: asyncio.Event | None = None

    def __enter__(self) -> None:
        self._requests += 1

    def __exit__(self, *error: object) -> None:
        self._requests -= 1
        if not self._requests and self._ended is not None:
            self._ended.set()

    async def ended(self) -> None:
        """Wait until no request is left; the caller sees to it that no new one comes."""
        if self._requests:
            self._ended = self._ended or asyncio.Event()
            await self._ended.wait()
