"""Work for an engine, on its way through the batcher, and the report of each engine call."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np

from service.bundle import Array


@dataclass(slots=True, eq=False)
class Work:
    """Rows to be computed by one graph.

    `rows` are the inputs with one entry per row, all of the same length; `shared` are the inputs common to all rows,
    and `finish` makes of the graph's outputs the answer, row by row. `key` names the content of these two: works with
    the same graph and key may be computed together.
    """

    graph: str
    rows: Mapping[str, Array]
    shared: Mapping[str, Array] = field(default_factory=dict)
    key: Hashable = None
    draws: int = 1
    finish: Callable[[dict[str, Array]], dict[str, Array]] = dict

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.rows.values())))


class Report(NamedTuple):
    """What became of one engine call.

    Attributes:
        graph: What was computed.
        key: See `Work`.
        rows: Of so many rows.
        draws: With so many draws each.
        waits: How long works waited whose first rows these are, in seconds.
        seconds: How long the engine took.
        failed: Whether it raised. The rows of several works are then tried again, work by work.
    """

    graph: str
    key: Hashable
    rows: int
    draws: int
    waits: list[float]
    seconds: float
    failed: bool


class Job:
    """A work on its way: what has been handed out, what has come back. The future gets every output of its graph."""

    def __init__(self, work: Work, future: asyncio.Future[dict[str, Array]]) -> None:
        self.work = work
        self.num_rows = self.outstanding = work.num_rows
        self.handed_out = 0
        self.submitted = time.monotonic()
        self.answer: dict[str, Array] = {}
        self.future = future

    def store(self, start: int, rows: int, piece: dict[str, Array]) -> None:
        """Keep the answer of as many rows from `start` on; called by several threads at once."""
        if rows == self.num_rows:
            self.answer = piece
            return
        for name, values in piece.items():
            whole = self.answer.get(name)
            if whole is None:
                whole = self.answer.setdefault(name, np.empty((self.num_rows, *values.shape[1:]), values.dtype))
            whole[start : start + rows] = values

    def count(self, rows: int) -> None:
        """Count rows that are stored; completes the job with the last."""
        self.outstanding -= rows
        if not self.outstanding and not self.future.done():
            self.future.set_result(self.answer)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class JobQueue(deque[Job]):
    """Jobs of one kind that wait.

    Args:
        niceness: Added to that of the process in the threads that compute these jobs.

    Attributes:
        wake: Has an entry where there may be something to do, and false where a thread is to end.
    """

    def __init__(self, niceness: int) -> None:
        super().__init__()
        self.niceness = niceness
        self.wake: SimpleQueue[bool] = SimpleQueue()


class Piece(NamedTuple):
    """Rows [start, stop) of a job."""

    job: Job
    start: int
    stop: int
