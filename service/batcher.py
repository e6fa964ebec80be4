"""The batcher: many requests, few engine calls.

Rows that wait while the engine is busy are computed together; there is no timer, so an idle service adds no delay and a
busy one fills its batches. Jobs that share (graph, shared inputs) share batches; large jobs are split, taking turns
with the others; answers are put together in order. All work is measured in row-draws: rows × draws of the decoder.

This module must not know about HTTP, ONNX or what the arrays mean.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from service.bundle import Array
from service.engine import Engine
from service.errors import NotReadyError, OverloadedError

_SMOOTHING = 0.1
"""Weight of the newest batch in the running mean of the computing rate."""


@dataclass(frozen=True)
class Work:
    """Rows to be computed by one graph.

    `rows` are the inputs with one entry per row, all of the same length; `shared` are the inputs common to all rows,
    and `key` names their content: works with the same graph and key may be computed together.
    """

    graph: str
    rows: Mapping[str, Array]
    shared: Mapping[str, Array] = field(default_factory=dict)
    key: Hashable = None
    draws: int = 1

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.rows.values())))


class _Job:
    """A work on its way: what has been handed out, what has come back."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.handed_out = 0
        self.outstanding = work.num_rows
        self.answer: dict[str, Array] = {}
        self.future: asyncio.Future[dict[str, Array]] = asyncio.get_running_loop().create_future()

    def put(self, start: int, piece: Mapping[str, Array]) -> None:
        """Store the answer of the rows from `start` on; completes the job with the last piece."""
        rows = len(next(iter(piece.values())))
        if rows == self.work.num_rows:
            self.answer = dict(piece)
        else:
            for name, values in piece.items():
                if name not in self.answer:
                    self.answer[name] = np.empty((self.work.num_rows, *values.shape[1:]), values.dtype)
                self.answer[name][start : start + rows] = values
        self.outstanding -= rows
        if not self.outstanding and not self.future.done():
            self.future.set_result(self.answer)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(frozen=True)
class _Piece:
    """Rows [start, stop) of a job."""

    job: _Job
    start: int
    stop: int


class Batcher:
    """Feeds one engine from many requests. Lives on one event loop: start it and submit to it there.

    Args:
        engine: What computes.
        max_batch: Most row-draws in one engine call; a single row with more draws is a batch of its own.
        max_queue: Most row-draws waiting and under way; beyond it, new work is refused at once.
        lanes: Engine calls under way at once.
    """

    def __init__(self, engine: Engine, *, max_batch: int, max_queue: int, lanes: int) -> None:
        self._engine = engine
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._lanes = lanes
        self._waiting: deque[_Job] = deque()
        self._admitted = 0
        self._open: set[_Job] = set()
        self._rate = 0.0
        self._wake = asyncio.Semaphore(0)
        self._pool = ThreadPoolExecutor(lanes, thread_name_prefix="engine")
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to compute."""
        self._tasks = [asyncio.create_task(self._lane(), name=f"batcher-{i}") for i in range(self._lanes)]

    async def stop(self) -> None:
        """Stop computing; whatever is not yet answered is refused."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job in self._open:
            job.fail(NotReadyError("the service is shutting down"))
        self._pool.shutdown()

    async def submit(self, work: Work) -> dict[str, Array]:
        """Every output of the work's graph, row i answering row i; the work has at least one row.

        A caller that is cancelled (its client left, its time ran out) takes its waiting rows with it.

        Raises:
            OverloadedError: The queue has no room for this work.
        """
        cost = work.num_rows * work.draws
        if self._admitted and self._admitted + cost > self._max_queue:
            wait = self._admitted / self._rate if self._rate else 1.0
            raise OverloadedError(f"{self._admitted:,} row-draws are queued, {self._max_queue:,} at most", wait)
        job = _Job(work)
        self._admitted += cost
        self._open.add(job)
        self._waiting.append(job)
        self._wake.release()
        try:
            return await job.future
        finally:
            self._admitted -= cost
            self._open.discard(job)

    async def _lane(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.acquire()
            batch = self._take()
            if not batch:
                continue
            started = time.perf_counter()
            try:
                answer = await loop.run_in_executor(self._pool, self._compute, batch)
            except Exception as error:
                await self._compute_apart(batch, error)
                continue
            self._measure(batch, time.perf_counter() - started)
            _scatter(batch, answer)

    def _take(self) -> list[_Piece]:
        """The next batch: the longest-waiting job's rows, filled up with rows that can share its engine call.

        A job with rows left goes to the end of the queue, so that large jobs and small ones take turns.
        """
        while self._waiting and self._waiting[0].future.done():
            self._waiting.popleft()
        if not self._waiting:
            return []
        first = self._waiting[0].work
        room = max(1, self._max_batch // first.draws)
        batch: list[_Piece] = []
        passed_over: deque[_Job] = deque()
        unfinished: list[_Job] = []
        while self._waiting and room:
            job = self._waiting.popleft()
            if job.future.done():
                continue
            if (job.work.graph, job.work.key, job.work.draws) != (first.graph, first.key, first.draws):
                passed_over.append(job)
                continue
            rows = min(room, job.work.num_rows - job.handed_out)
            batch.append(_Piece(job, job.handed_out, job.handed_out + rows))
            job.handed_out += rows
            room -= rows
            if job.handed_out < job.work.num_rows:
                unfinished.append(job)
        self._waiting = passed_over + self._waiting
        self._waiting.extend(unfinished)
        if self._waiting:
            self._wake.release()
        return batch

    def _compute(self, batch: list[_Piece]) -> dict[str, Array]:
        first = batch[0].job.work
        rows = {
            name: np.concatenate([piece.job.work.rows[name][piece.start : piece.stop] for piece in batch])
            if len(batch) > 1
            else first.rows[name][batch[0].start : batch[0].stop]
            for name in first.rows
        }
        return self._engine.run(first.graph, {**rows, **first.shared})

    async def _compute_apart(self, batch: list[_Piece], error: Exception) -> None:
        """After a failed call: each job again on its own, so that only the one at fault fails."""
        loop = asyncio.get_running_loop()
        for piece in batch:
            if len(batch) > 1:
                try:
                    _scatter([piece], await loop.run_in_executor(self._pool, self._compute, [piece]))
                except Exception as alone:
                    piece.job.fail(alone)
            else:
                piece.job.fail(error)

    def _measure(self, batch: list[_Piece], seconds: float) -> None:
        done = sum(piece.stop - piece.start for piece in batch) * batch[0].job.work.draws
        newest = self._lanes * done / max(seconds, 1e-9)
        self._rate = (
            newest
            if not self._rate
            else math.exp((1 - _SMOOTHING) * math.log(self._rate) + _SMOOTHING * math.log(newest))
        )


def _scatter(batch: list[_Piece], answer: Mapping[str, Array]) -> None:
    offset = 0
    for piece in batch:
        rows = piece.stop - piece.start
        piece.job.put(piece.start, {name: values[offset : offset + rows] for name, values in answer.items()})
        offset += rows
