"""The batcher: many requests, few engine calls.

Rows that wait while the engine is busy are computed together; there is no timer, so an idle service adds no delay and a
busy one fills its batches. Jobs that share (graph, shared inputs) share batches; answers are put together in order.
All work is measured in row-draws: rows × draws of the decoder.

A job that fits in one batch is small. Small jobs and large ones wait in two queues, each with threads of its own. One
call of each kind may always be under way, and more while all threads of one kind would be enough for them. So a small
job waits for no large one. Threads for large jobs have a lower priority: where processors are few, a small job goes
first there too. Requests of like size share the room for admitted work, and leave that of other sizes alone.
"""

import asyncio
import math
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from threading import Lock, Thread
from typing import Any

import numpy as np

from service.bundle import Array
from service.engine import Engine
from service.errors import EngineLostError, NotReadyError, OverloadedError
from service.inference.jobs import Job, JobQueue, Piece, Report, Work
from service.inference.use import Admission
from service.threads import NICENESS, in_thread

_SMOOTHING = 0.1
"""Weight of the newest batch in the running mean of the computing rate."""

LIKE = 8
"""Requests whose costs differ by no larger factor are of like size."""

_STOPPED = "this model is being stopped"


class _EngineThread(Thread):
    """A thread that computes batches.

    Attributes:
        queue: Where its jobs wait.
        since: When the engine call under way began, if one is.
        given_up: Nobody waits for that call any more.
    """

    def __init__(self, run: Callable[["_EngineThread"], None], queue: JobQueue) -> None:
        super().__init__(target=run, args=[self], name="engine", daemon=True)
        self.queue = queue
        self.since: float | None = None
        self.given_up = False


class Batcher:
    """Feeds one engine from many requests.

    Works are submitted on one event loop. Each engine thread takes what waits, computes it, and hands the
    answers back to the loop, so that the engine does not wait between two batches.

    Args:
        engine: What computes.
        max_batch: Most row-draws in one engine call; a single row with more draws is a batch of its own.
        max_queue: Most row-draws of admitted requests of like size; beyond it, new ones are refused at once.
        engine_threads: Engine calls under way at once.
        observe: Told of every engine call, on the event loop.

    Attributes:
        engine: What computes now.
    """

    def __init__(
        self, engine: Engine, *, max_batch: int, max_queue: int, engine_threads: int, observe: Callable[[Report], None]
    ) -> None:
        self.engine = engine
        self._observe = observe
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._small = JobQueue(0)
        self._large = JobQueue(NICENESS)
        self._taking = Lock()
        self._admitted: dict[int, int] = {}  # Requests by their cost.
        self._outstanding = 0
        self._open: set[Job] = set()
        self._rate = 0.0
        self._gathering = self._newcomers = False
        self._stopped = False
        self._num_threads = engine_threads
        self._threads: list[_EngineThread] = []
        self._given_up: list[list[_EngineThread]] = []

    def start(self) -> None:
        """Begin to compute; called on the loop that works will be submitted on."""
        self._loop = asyncio.get_running_loop()
        self._threads = [self._new_thread(queue) for queue in (self._small, self._large) * self._num_threads]

    def _new_thread(self, queue: JobQueue) -> _EngineThread:
        thread = _EngineThread(self._engine_thread, queue)
        thread.start()
        return thread

    async def stop(self, patience: float) -> None:
        """Stop computing, and refuse all requests that are not yet answered.

        Calls under way are waited for, but no longer than so many seconds.
        """
        self._stopped = True
        for thread in self._threads:
            thread.queue.wake.put(False)
        waits = (in_thread(partial(thread.join, patience)) for thread in self._threads)
        await asyncio.gather(*waits, return_exceptions=True)  # If no thread starts, nothing waits.
        for job in self._open:
            job.fail(NotReadyError(_STOPPED))

    def replace(self, engine: Engine) -> None:
        """Go on with another engine; requests that the old one holds, or has answered in part, do not go to it.

        A call under way cannot be ended: its thread is given up, and another takes its place.
        """
        with self._taking:
            self.engine = engine
            busy = [thread for thread in self._threads if thread.since is not None]
            for thread in busy:
                thread.given_up = True
            for job in self._open:
                if job.handed_out:
                    job.fail(EngineLostError("the engine was replaced while it computed this"))
        self._given_up = [group for group in (*self._given_up, busy) if any(thread.is_alive() for thread in group)]
        self._threads = [self._new_thread(thread.queue) if thread.given_up else thread for thread in self._threads]

    @property
    def admitted(self) -> int:
        """Row-draws that requests under way will compute, or have computed."""
        return sum(cost * number for cost, number in self._admitted.items())

    def longest_call(self) -> float:
        """Seconds that the longest engine call under way takes already; 0 if there is none."""
        now = time.monotonic()
        return max((now - since for thread in self._threads if (since := thread.since) is not None), default=0.0)

    def hung(self) -> int:
        """How many of the engines that were replaced still hang in a call."""
        return sum(any(thread.is_alive() for thread in group) for group in self._given_up)

    def check_room(self, cost: int) -> None:
        """Refuse what cannot be admitted now, at this cost in row-draws.

        Raises:
            OverloadedError: There is no room.
        """
        queued = 0
        for other, number in self._admitted.items():
            if cost <= LIKE * other and other <= LIKE * cost:
                queued += other * number
        if queued and queued + cost > self._max_queue:
            wait = queued / self._rate if self._rate else 1.0
            raise OverloadedError(f"{queued:,} row-draws are queued, {self._max_queue:,} at most", wait)

    def admit(self, cost: int) -> Admission:
        """Make room for a request with all that it will submit, in row-draws, until it ends.

        A request of many steps is so refused before its first, never in the middle of its work.

        Raises:
            OverloadedError: There is no room.
        """
        self.check_room(cost)
        return Admission(self._admitted, cost)

    async def submit(self, work: Work, *, first: bool = False) -> dict[str, Array]:
        """Every output of the work's graph, row i answering row i; the work has at least one row.

        `first` puts it before all that waits.

        A caller that is cancelled (its client left, its time ran out) takes its waiting rows with it.

        Raises:
            NotReadyError: The batcher is stopped.
            EngineLostError: The engine was replaced before all of it was computed.
        """
        if self._stopped:
            raise NotReadyError(_STOPPED)
        loop = asyncio.get_running_loop()  # Asks the kernel for the process's number, so once.
        job = Job(work, loop.create_future())
        cost = job.num_rows * work.draws
        self._outstanding += cost
        self._open.add(job)
        queue = self._small if cost <= self._max_batch else self._large
        if first:
            with self._taking:  # An engine thread that takes looks at the front more than once.
                queue.appendleft(job)
        else:
            queue.append(job)
        self._newcomers = True
        if not self._gathering:
            self._gathering = True
            loop.call_soon(self._gather)
        try:
            return await job.future
        finally:
            self._outstanding -= cost
            self._open.discard(job)

    def _gather(self) -> None:
        """Wake an engine thread, once a turn of the loop has brought no new work, or enough has come to fill a batch.

        Clients whose answers came together ask again together, but are read in several turns.
        """
        self._gathering = self._newcomers and self._outstanding < self._max_batch
        self._newcomers = False
        if self._gathering:
            asyncio.get_running_loop().call_soon(self._gather)
        else:
            self._wake_threads()

    def _wake_threads(self) -> None:
        for queue in (self._small, self._large):
            if queue:
                queue.wake.put(True)

    def _engine_thread(self, thread: _EngineThread) -> None:
        if sys.platform == "linux":  # Elsewhere it would be the niceness of the whole process.
            os.nice(thread.queue.niceness)
        while not thread.given_up and thread.queue.wake.get():
            with self._taking:
                batch = self._take(thread.queue) if self._may_take(thread.queue) else []
                thread.since = time.monotonic() if batch else None
                engine = self.engine
            if batch:
                self._answer(batch, engine, thread)
                thread.since = None
                self._wake_threads()
            del engine  # Which may be replaced while this engine thread waits.

    def _may_take(self, queue: JobQueue) -> bool:
        busy = [thread.queue for thread in self._threads if thread.since is not None]
        return len(busy) < self._num_threads or queue not in busy

    def _answer(self, batch: list[Piece], engine: Engine, thread: _EngineThread) -> None:
        """Compute a batch and hand its answers to the loop; after a failure each piece alone, one being at fault."""
        thread.since = started = time.monotonic()
        try:
            self._compute(batch, engine)
        except Exception as error:
            self._on_loop(self._report, batch, started, time.monotonic() - started, True)
            if len(batch) == 1:
                self._on_loop(batch[0].job.fail, error)
            else:
                for piece in batch:
                    if not thread.given_up:
                        self._answer([piece], engine, thread)
        else:
            self._on_loop(self._finish, batch, started, time.monotonic() - started)

    def _on_loop(self, call: Callable[..., object], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            # A lost engine may answer after the model was stopped, when nothing waits for the answer any more.
            if not self._loop.is_closed():
                raise

    def _take(self, waiting: JobQueue) -> list[Piece]:
        """The next batch: the longest-waiting job's rows, filled up with rows that can share its engine call.

        A job with rows left goes to the end of its queue, so that large jobs take turns.
        """
        while waiting and waiting[0].future.done():
            waiting.popleft()
        if not waiting:
            return []
        first = waiting[0].work
        room = max(1, self._max_batch // first.draws)
        batch: list[Piece] = []
        passed_over: list[Job] = []
        unfinished: list[Job] = []
        while waiting and room:
            job = waiting.popleft()
            if job.future.done():
                continue
            if (job.work.graph, job.work.key, job.work.draws) != (first.graph, first.key, first.draws):
                passed_over.append(job)
                continue
            rows = min(room, job.num_rows - job.handed_out)
            batch.append(Piece(job, job.handed_out, job.handed_out + rows))
            job.handed_out += rows
            room -= rows
            if job.handed_out < job.num_rows:
                unfinished.append(job)
        waiting.extendleft(reversed(passed_over))
        waiting.extend(unfinished)
        if waiting:
            waiting.wake.put(True)
        return batch

    def _compute(self, batch: list[Piece], engine: Engine) -> None:
        """Compute a batch, and store the answers; a piece that is all of it gets the arrays as they are."""
        first = batch[0].job.work
        rows = {
            name: np.concatenate([piece.job.work.rows[name][piece.start : piece.stop] for piece in batch])
            if len(batch) > 1
            else first.rows[name][batch[0].start : batch[0].stop]
            for name in first.rows
        }
        answer = first.finish(engine.run(first.graph, {**rows, **first.shared}))
        given = sum(stop - start for _, start, stop in batch)
        for values in answer.values():
            if len(values) != given:  # Some would get the rows of others.
                raise ValueError(f"{first.graph}: {len(values):,} rows for {given:,}")
        offset = 0
        for job, start, stop in batch:
            end = offset + stop - start
            mine = {name: values[offset:end] for name, values in answer.items()} if len(batch) > 1 else answer
            job.store(start, stop - start, mine)
            offset = end

    def _finish(self, batch: list[Piece], started: float, seconds: float) -> None:
        for piece in batch:
            piece.job.count(piece.stop - piece.start)
        self._measure(sum(piece.stop - piece.start for piece in batch) * batch[0].job.work.draws, seconds)
        self._report(batch, started, seconds, False)

    def _report(self, batch: list[Piece], started: float, seconds: float, failed: bool) -> None:
        first = batch[0].job.work
        rows = sum(piece.stop - piece.start for piece in batch)
        waits = [started - piece.job.submitted for piece in batch if not piece.start and not failed]
        report = Report(first.graph, first.key, rows, first.draws, waits, seconds, failed)
        self._loop.call_soon(self._observe, report)  # The callers, who wake before, do not wait for what it takes.

    def _measure(self, done: int, seconds: float) -> None:
        newest = self._num_threads * done / max(seconds, 1e-9)
        self._rate = (
            newest
            if not self._rate
            else math.exp((1 - _SMOOTHING) * math.log(self._rate) + _SMOOTHING * math.log(newest))
        )
