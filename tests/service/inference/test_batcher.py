"""Every request is answered once, by its own rows, in order, with any others in the queue."""

import asyncio
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import NotReadyError
from service.inference import Report
from service.inference.batcher import Batcher
from service.inference.jobs import Work
from tests.service.inference.arithmetic import (
    POISON,
    Arithmetic,
    Array,
    admitted,
    answer_to,
    until_busy,
    with_batcher,
    work,
)

EXAMPLES = 300
"""Random histories of up to 12 requests that the property is held to."""


@st.composite
def requests(draw: st.DrawFn) -> list[tuple[Work, bool, int]]:
    """Works whose rows are all different, whether their caller leaves, and how long it waits before."""
    drawn = []
    first = 0
    for _ in range(draw(st.integers(1, 12))):
        size = draw(st.integers(1, 12))
        rows = list(range(first, first + size))
        first += size
        if draw(st.integers(0, 5)) == 0:
            rows[draw(st.integers(0, size - 1))] = POISON
        graph = draw(st.sampled_from(["double", "shift"]))
        shift = 0 if graph == "double" else draw(st.sampled_from([100, 200]))
        task = work(*rows, graph=graph, draws=draw(st.sampled_from([1, 2, 3, 20])), shift=shift)
        drawn.append((task, draw(st.integers(0, 4)) == 0, draw(st.integers(0, 3))))
    return drawn


def assert_batches(tasks: list[Work], calls: list[tuple[str, list[int]]], max_batch: int) -> None:
    """No call had more row-draws than allowed, but for a single row, or rows that do not belong together."""
    task_of = {row: task for task in tasks for row in task.rows["x"].tolist() if row != POISON}
    for graph, rows in calls:
        mates = [task_of[row] for row in rows if row != POISON]
        assert len({(task.key, task.draws) for task in mates}) <= 1
        assert all(task.graph == graph for task in mates)
        assert len(rows) == 1 or len(rows) * max((task.draws for task in mates), default=1) <= max_batch


History = list[tuple[Work, bool, int]]


@settings(max_examples=EXAMPLES)
@given(tasks=requests(), max_batch=st.integers(1, 16), engine_threads=st.integers(1, 3))
def test_every_request_is_answered_once_by_its_own_rows(tasks: History, max_batch: int, engine_threads: int) -> None:

    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        async def send_request(task: Work, leaves: bool, turns: int) -> dict[str, Array] | BaseException:
            for _ in range(turns):
                await asyncio.sleep(0)
            request = asyncio.create_task(admitted(batcher, task))
            if leaves:
                for _ in range(turns):
                    await asyncio.sleep(0)
                request.cancel()
            return (await asyncio.gather(request, return_exceptions=True))[0]

        answers = await asyncio.gather(*(send_request(*task) for task in tasks))
        for (task, leaves, _), answer in zip(tasks, answers, strict=True):
            if isinstance(answer, asyncio.CancelledError):
                assert leaves
            elif POISON in task.rows["x"]:
                assert isinstance(answer, ValueError)
            else:
                assert isinstance(answer, dict)
                np.testing.assert_array_equal(answer["value"], answer_to(task))
                np.testing.assert_array_equal(answer["wide"], np.stack([task.rows["x"], -task.rows["x"]], axis=1))
        assert_batches([task for task, _, _ in tasks], engine.calls, max_batch)
        if not any(leaves or POISON in task.rows["x"] for task, leaves, _ in tasks):
            rows = [row for task, _, _ in tasks for row in task.rows["x"].tolist()]
            assert sorted(row for _, batch in engine.calls for row in batch) == sorted(rows)
        assert engine.most_under_way <= engine_threads + 1  # One more for small jobs beside large ones.

    with_batcher(scenario, max_batch=max_batch, max_queue=10**6, engine_threads=engine_threads)


def test_waiting_rows_share_a_call_with_their_kind() -> None:
    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        engine.may_go_on.clear()
        first = asyncio.create_task(batcher.submit(work(1)))
        await until_busy(engine)
        others = [
            asyncio.create_task(batcher.submit(task))
            for task in (
                work(2, 3),
                work(50, graph="shift", shift=100),
                work(4),
                work(60, graph="shift", shift=200),
                work(70, draws=2),
                work(51, graph="shift", shift=100),
            )
        ]
        await asyncio.sleep(0)
        engine.may_go_on.set()
        await asyncio.gather(first, *others)
        assert engine.calls == [
            ("double", [1]),
            ("double", [2, 3, 4]),
            ("shift", [50, 51]),
            ("shift", [60]),
            ("double", [70]),
        ]

    with_batcher(scenario)


def test_an_answer_is_finished_once_a_batch() -> None:
    finished = []

    def finish(answer: dict[str, Array]) -> dict[str, Array]:
        finished.append(len(answer["value"]))
        return {"more": answer["value"] + 1}

    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        tasks = [replace(work(*rows), finish=finish) for rows in ([1, 2], [3], [4, 5, 6])]
        other = replace(work(7), key="finished otherwise", finish=lambda answer: {"other": answer["wide"]})
        answers = await asyncio.gather(*map(batcher.submit, (*tasks, other)))
        assert [answer["more"].tolist() for answer in answers[:3]] == [[3, 5], [7], [9, 11, 13]]
        assert answers[3]["other"].tolist() == [[7, -7]]
        assert finished == [6]

    with_batcher(scenario)


@pytest.mark.parametrize(("max_batch", "first"), [(8, [0, 1, 2, 3]), (2, [0, 1])])
def test_a_call_waits_while_work_arrives_until_it_is_full(max_batch: int, first: list[int]) -> None:
    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        async def send_request(row: int) -> None:
            for _ in range(row):
                await asyncio.sleep(0)
            await batcher.submit(work(row))

        await asyncio.gather(*map(send_request, range(4)))
        assert engine.calls[0] == ("double", first)

    with_batcher(scenario, max_batch=max_batch)


def test_the_longest_call_is_the_one_that_began_first() -> None:
    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        assert batcher.longest_call() == 0
        engine.may_go_on.clear()
        requests = [asyncio.create_task(batcher.submit(work(1, draws=2)))]
        await until_busy(engine)
        await asyncio.sleep(0.1)
        requests.append(asyncio.create_task(batcher.submit(work(2))))
        await until_busy(engine)
        assert batcher.longest_call() > 0.09
        engine.may_go_on.set()
        await asyncio.gather(*requests)

    with_batcher(scenario, engine_threads=2)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
def test_an_answer_of_too_few_rows_fails_its_own_request() -> None:
    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        def finish(answer: dict[str, Array]) -> dict[str, Array]:
            return {name: values[1:] for name, values in answer.items()}

        for task in (work(1, 2), work(*range(9))):
            with pytest.raises(ValueError, match=r"double: [17] rows for [28]"):
                await batcher.submit(replace(task, finish=finish))
        assert (await batcher.submit(work(3)))["value"].tolist() == [6]

    with_batcher(scenario)


def test_one_row_of_many_draws_is_a_batch_of_its_own() -> None:
    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        await batcher.submit(work(1, 2, 3, draws=100))
        assert engine.calls == [("double", [1]), ("double", [2]), ("double", [3])]

    with_batcher(scenario, max_batch=8)


def test_a_bad_row_fails_its_own_job_only() -> None:
    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        tasks = [work(1, 2), work(3, POISON), work(4), work(5)]
        answers = await asyncio.gather(*map(batcher.submit, tasks), return_exceptions=True)
        assert isinstance(answers[1], ValueError)
        for i in (0, 2, 3):
            answer = answers[i]
            assert isinstance(answer, dict)
            np.testing.assert_array_equal(answer["value"], answer_to(tasks[i]))
        np.testing.assert_array_equal((await batcher.submit(work(6)))["value"], [12])

    with_batcher(scenario)


def test_rows_of_a_caller_that_left_are_not_computed() -> None:
    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        engine.may_go_on.clear()
        first = asyncio.create_task(admitted(batcher, work(1)))
        await until_busy(engine)
        left = asyncio.create_task(admitted(batcher, work(2, 3)))
        stays = asyncio.create_task(admitted(batcher, work(4)))
        await asyncio.sleep(0)
        assert batcher.admitted == 4
        left.cancel()
        await asyncio.sleep(0)
        assert batcher.admitted == 2
        engine.may_go_on.set()
        await asyncio.gather(first, stays)
        assert engine.calls == [("double", [1]), ("double", [4])]

    with_batcher(scenario)


def test_stop_answers_what_is_under_way_and_refuses_what_waits() -> None:
    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        engine.may_go_on.clear()
        requests = [asyncio.create_task(batcher.submit(work(1, 2)))]
        await until_busy(engine)
        requests += [
            asyncio.create_task(batcher.submit(work(*range(3, 30)))),
            asyncio.create_task(batcher.submit(work(99))),
        ]
        await asyncio.sleep(0)
        threading.Timer(0.05, engine.may_go_on.set).start()
        await batcher.stop(30)
        answers = await asyncio.wait_for(asyncio.gather(*requests, return_exceptions=True), 10)
        assert [type(answer) for answer in answers] == [dict, NotReadyError, NotReadyError]
        with pytest.raises(NotReadyError):
            await batcher.submit(work(100))

    with_batcher(scenario)


def test_nothing_is_computed_before_the_start() -> None:
    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        request = asyncio.create_task(batcher.submit(work(1)))
        await asyncio.sleep(0.01)
        assert not engine.calls
        batcher.start()
        np.testing.assert_array_equal((await request)["value"], [2])

    with_batcher(scenario, start=False)


def test_lanes_compute_side_by_side() -> None:
    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        engine.may_go_on.clear()
        requests = [asyncio.create_task(batcher.submit(work(i, draws=i))) for i in (1, 2, 3)]
        await until_busy(engine)
        await until_busy(engine)
        await asyncio.sleep(0)
        assert engine.under_way == 2
        engine.may_go_on.set()
        await asyncio.gather(*requests)
        assert engine.most_under_way == 2

    with_batcher(scenario, engine_threads=2)


def test_every_engine_call_is_reported() -> None:
    reports: list[Report] = []

    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        engine.may_go_on.clear()
        firsts = [work(1, 2, draws=2), work(30, graph="shift", draws=9)]
        requests = [asyncio.create_task(batcher.submit(first)) for first in firsts]
        for _ in firsts:
            await until_busy(engine)
        others = [work(*range(10), graph="shift", draws=2), work(20, draws=2), work(POISON, draws=2)]
        requests += [asyncio.create_task(batcher.submit(other)) for other in others]
        await asyncio.sleep(0.1)
        engine.may_go_on.set()
        await asyncio.gather(*requests, return_exceptions=True)

    with_batcher(scenario, observe=reports.append)
    ran = [(report.graph, report.rows, report.draws, len(report.waits), report.failed) for report in reports]
    assert [report for report in ran if report[0] == "shift"] == [
        ("shift", 1, 9, 1, False),
        ("shift", 4, 2, 1, False),
        ("shift", 4, 2, 0, False),
        ("shift", 2, 2, 0, False),
    ]
    # After the first, two works together, then each alone, one being at fault.
    assert [report for report in ran if report[0] == "double"] == [
        ("double", 2, 2, 1, False),
        ("double", 2, 2, 0, True),
        ("double", 1, 2, 1, False),
        ("double", 1, 2, 0, True),
    ]
    waits = [(wait, report.seconds) for report in reports for wait in report.waits]
    assert sum(0 <= wait < 0.1 < seconds < 30 for wait, seconds in waits) == 2
    assert sum(0.1 < wait < 30 for wait, _ in waits) == len(waits) - 2 == 2


def test_a_call_is_reported_after_its_answer() -> None:
    """One client waits for the answer, and not for what the service counts."""
    events: list[str] = []

    async def scenario(batcher: Batcher, engine: Arithmetic) -> None:
        async def ask() -> None:
            await batcher.submit(work(1))
            events.append("answer")

        await asyncio.create_task(ask())
        await asyncio.sleep(0)

    with_batcher(scenario, observe=lambda report: events.append("report"))
    assert events == ["answer", "report"]
