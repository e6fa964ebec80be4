"""The use of a model by the requests under way."""

import asyncio


class Use:
    """Counts the requests that use a model; each of them enters it."""

    def __init__(self) -> None:
        self._requests = 0
        self._ended = asyncio.Event()

    def __enter__(self) -> None:
        self._requests += 1

    def __exit__(self, *error: object) -> None:
        self._requests -= 1
        if not self._requests:
            self._ended.set()

    async def ended(self) -> None:
        """Wait until no request is left; the caller sees to it that no new one comes."""
        while self._requests:
            self._ended.clear()
            await self._ended.wait()
