"""Time limits of requests, on a loop of their own."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from service.api.problem_details import RequestMiddleware
from service.api.time_limit import TimeLimit, in_time
from service.errors import DeadlineError
from service.observability.metrics import Telemetry

LIMIT = 0.2
"""Seconds."""


async def ask(limit: TimeLimit, seconds: float) -> float:
    """Wait within the limit; the seconds after which that ended."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        with limit:
            await asyncio.sleep(seconds)
    except DeadlineError:
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
    return loop.time() - began


def test_each_task_has_the_whole_limit() -> None:
    async def main() -> list[float]:
        limit, asked = TimeLimit(LIMIT), []
        for seconds in (60, 60, 0.01, 60, 60):
            asked.append(asyncio.create_task(ask(limit, seconds)))
            await asyncio.sleep(LIMIT / 3)
        first = await asyncio.gather(*asked)
        return [*first, await ask(limit, 60)]  # When none had been left.

    took = asyncio.run(main())
    assert took[2] < LIMIT
    assert all(seconds >= LIMIT for i, seconds in enumerate(took) if i != 2)
    assert max(took) < 10


def test_who_is_cancelled_is_not_late() -> None:
    async def main() -> None:
        limit = TimeLimit(LIMIT)
        asked = asyncio.create_task(ask(limit, 60))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await asyncio.sleep(2 * LIMIT)  # Its timer finds nothing to do.

    asyncio.run(main())


def test_a_limit_of_its_own() -> None:
    async def fail() -> None:
        raise TimeoutError("another one")

    async def main() -> None:
        assert await in_time(60, asyncio.sleep(0, "done")) == "done"
        with pytest.raises(DeadlineError, match=r"within 0\.01 seconds"):
            await in_time(0.01, asyncio.sleep(60))
        with pytest.raises(TimeoutError, match="another one"):
            await in_time(60, fail())

    asyncio.run(main())


def test_an_answer_that_is_not_taken_in_time_ends_without_an_error() -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(60)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        """Take it."""

    async def main() -> None:
        telemetry = Telemetry(1)
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        with pytest.raises(asyncio.CancelledError):  # By which the connection is closed.
            await RequestMiddleware(answer, LIMIT, telemetry, telemetry.labels("GET", "/", ""))(scope, receive, send)

    asyncio.run(main())
