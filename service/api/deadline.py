"""The time that a request may take."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.errors import DeadlineError


@asynccontextmanager
async def deadline(seconds: float | None) -> AsyncIterator[None]:
    """Give up the work inside after so many seconds; None: never.

    Raises:
        DeadlineError: The time ran out.
    """
    try:
        async with asyncio.timeout(seconds) as clock:
            yield
    except TimeoutError as error:
        if not clock.expired():
            raise
        raise DeadlineError(f"not answered within {seconds:g} seconds") from error
