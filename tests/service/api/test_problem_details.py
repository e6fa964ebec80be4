"""Requests are given up when their time has run out, each by its own clock."""

import asyncio

import pytest

from service.api.problem_details import _TimeLimit
from service.errors import DeadlineError


def test_each_is_given_up_in_its_time() -> None:
    async def main() -> None:
        limit = _TimeLimit(0.2)
        loop = asyncio.get_running_loop()

        async def work(start: float, length: float) -> float:
            await asyncio.sleep(start)
            with limit:
                await asyncio.sleep(length)
            return 0

        async def late(start: float = 0) -> float:
            await asyncio.sleep(start)
            entered = loop.time()
            with pytest.raises(DeadlineError, match=r"not answered within 0\.2 seconds"), limit:
                await asyncio.sleep(60)
            task = asyncio.current_task()
            assert task is not None
            assert not task.cancelling()
            return loop.time() - entered

        took = await asyncio.gather(late(), work(0.05, 0.02), late(0.1), work(0.1, 0.02), late(0.3))
        assert [seconds == 0 for seconds in took] == [False, True, False, True, False]
        assert all(0.19 < seconds < 10 for seconds in took if seconds)
        with limit:  # The clock runs again after all have left.
            pass
        assert await late() > 0.19

    asyncio.run(main())


def test_who_is_cancelled_by_others_is_cancelled() -> None:
    async def main() -> None:
        limit = _TimeLimit(30)

        async def work() -> None:
            with limit:
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not limit._due

    asyncio.run(main())
