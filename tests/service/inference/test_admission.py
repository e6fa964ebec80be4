"""Requests of every size have their turn: large ones beside small ones, and room for each."""

import asyncio
import os
import threading
from dataclasses import replace

import numpy as np
import pytest

from service.errors import OverloadedError
from service.inference.batcher import Batcher
from tests.service.inference.arithmetic import (
    Arithmetic,
    Array,
    admitted,
    until_busy,
    with_batcher,
    work,
)


def test_large_jobs_and_small_ones_take_turns() -> None:
    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        engine.may_go_on.clear()
        large = asyncio.create_task(batcher.submit(work(*range(10, 22), draws=2)))
        await until_busy(engine)
        held, engine.may_go_on = engine.may_go_on, threading.Event()
        engine.may_go_on.set()
        np.testing.assert_array_equal((await batcher.submit(work(1, 2)))["value"], [2, 4])
        held.set()
        np.testing.assert_array_equal((await large)["value"], 2 * np.arange(10, 22))
        assert [len(rows) for _, rows in engine.calls] == [4, 2, 4, 4]

    with_batcher(scenario, max_batch=8)


def test_a_large_job_has_its_turns_among_small_ones() -> None:
    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        engine.may_go_on.clear()
        requests = [asyncio.create_task(batcher.submit(work(1)))]
        await until_busy(engine)
        small = [work(10 * i, 10 * i + 1, draws=4) for i in range(2, 7)]
        requests += [asyncio.create_task(batcher.submit(task)) for task in (*small, work(*range(100, 106), draws=2))]
        await until_busy(engine)
        assert engine.calls[1] == ("double", [100, 101, 102, 103])
        engine.may_go_on.set()
        await asyncio.gather(*requests)

    with_batcher(scenario, max_batch=8)


def test_small_jobs_are_computed_while_large_ones_hold_every_thread() -> None:
    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        engine.may_go_on.clear()
        large = [asyncio.create_task(batcher.submit(work(*range(100 * i, 100 * i + 9)))) for i in (1, 2)]
        await until_busy(engine)
        await until_busy(engine)
        small = asyncio.create_task(batcher.submit(work(1)))
        await until_busy(engine)
        assert engine.calls[2] == ("double", [1])
        another = asyncio.create_task(batcher.submit(work(2, shift=1, graph="shift")))
        await asyncio.sleep(0.05)
        assert engine.under_way == 3  # No more than one for all small jobs.
        engine.may_go_on.set()
        await asyncio.gather(*large, small, another)

    with_batcher(scenario, max_batch=8, engine_threads=2)


def test_large_jobs_are_computed_at_a_lower_priority() -> None:
    niceness: list[int] = []

    def finish(answer: dict[str, Array]) -> dict[str, Array]:
        niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return answer

    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        for task in (work(*range(9)), work(1), work(*range(9))):
            await batcher.submit(replace(task, finish=finish))
        usual = os.getpriority(os.PRIO_PROCESS, 0)
        lower = min(usual + 10, 19)  # There is nothing lower.
        assert niceness == [lower, lower, usual, lower, lower]

    with_batcher(scenario)


def test_what_there_is_no_room_for_is_refused_at_once() -> None:
    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        engine.may_go_on.clear()
        first = asyncio.create_task(admitted(batcher, work(1, 2, 3, draws=3)))
        await until_busy(engine)
        with pytest.raises(OverloadedError, match="9 row-draws are queued, 9 at most") as refusal:
            await admitted(batcher, work(4, draws=2))
        assert refusal.value.retry_after == 1.0  # Nothing has been measured yet.
        fits = asyncio.create_task(admitted(batcher, work(5)))  # Of another size than the nine.
        await asyncio.sleep(0)
        assert batcher.admitted == 10
        engine.may_go_on.set()
        await asyncio.gather(first, fits)
        assert batcher.admitted == 0
        engine.may_go_on.clear()
        second = asyncio.create_task(admitted(batcher, work(6, 7, 8, draws=3)))
        await until_busy(engine)
        with pytest.raises(OverloadedError) as refusal:
            await admitted(batcher, work(9, draws=2))
        assert refusal.value.retry_after == pytest.approx(9 / batcher._rate)
        engine.may_go_on.set()
        await second

    with_batcher(scenario, max_queue=9)


def test_what_is_admitted_once_has_its_room_until_it_ends() -> None:
    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        with batcher.admit(8):
            await batcher.submit(work(1, 2))
            engine.may_go_on.clear()
            others = asyncio.create_task(admitted(batcher, work(3, 4)))
            await until_busy(engine)
            with pytest.raises(OverloadedError, match="10 row-draws are queued, 10 at most"):
                await admitted(batcher, work(5))
            engine.may_go_on.set()
            np.testing.assert_array_equal((await batcher.submit(work(6, 7)))["value"], [12, 14])
        await others
        await admitted(batcher, work(*range(10)))

    with_batcher(scenario, max_queue=10)


def test_an_idle_service_takes_a_request_of_any_size() -> None:
    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        np.testing.assert_array_equal((await admitted(batcher, work(*range(50))))["value"], 2 * np.arange(50))

    with_batcher(scenario, max_queue=10)
