"""A job: batches are read, answered and written at the same time, in order, a few in memory at once."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from service.bulk.batches import Batch
from service.bundle import Array, Bundle, TabularInput
from service.codecs.arrow import write_batch
from service.codecs.rendering import render
from service.codecs.rows import MARKING, PROBLEM, Rows
from service.codecs.strangest import strangest_cells
from service.errors import InvalidError
from service.inference import Limits, MakeEngine, Model
from service.scoring import MAX_DRAWS, ElboQuery

BATCH_BYTES = 2**22
BATCH_ROWS = 2**13
"""A batch has at most so many rows, and so many bytes of them."""

ENGINE_TIMEOUT = 60.0
"""Seconds, generous because no client waits for a single answer."""

Answer = tuple[dict[str, Array], Array]
"""The columns, (batch, ...) each, and which rows are too far away for a finite answer, bool (batch,)."""

Operation = Callable[[Model, Array, ElboQuery], Awaitable[Answer]]


async def score(model: Model, x: Array, query: ElboQuery) -> Answer:
    """The columns of `POST /elbo`."""
    bounds = await model.elbo(x, query)
    return bounds, np.isnan(bounds["score"])


async def encode(model: Model, x: Array, query: ElboQuery) -> Answer:
    """The columns of `POST /encode`; the query is not about them."""
    posterior = await model.encode(x)
    return posterior, np.isnan(posterior["mean"][:, 0])


async def reconstruct(model: Model, x: Array, query: ElboQuery) -> Answer:
    """E[x|z] at the posterior's mean, as `POST /decode` answers it; the query is not about that."""
    posterior, too_far = await encode(model, x, query)
    expected = await model.decode(posterior["mean"])
    expected[too_far] = np.nan
    return {"instances": expected}, too_far


OPERATIONS: dict[str, Operation] = {"elbo": score, "encode": encode, "reconstruct": reconstruct}


@dataclass(frozen=True, eq=False)
class BulkJob:
    """What is done to every batch.

    Attributes:
        bundle: The model.
        make_engine: Puts it on its device.
        max_batch: Most row-draws in one engine call.
        engine_threads: Engine calls at once.
        operation: What is asked about each batch.
        query: The parameters of that.
    """

    bundle: Bundle
    make_engine: MakeEngine
    max_batch: int
    engine_threads: int
    operation: Operation
    query: ElboQuery

    @property
    def batch_rows(self) -> int:
        """How many rows batches should have."""
        x = self.bundle.manifest.graphs["encoder"].inputs[0]
        return max(1, min(BATCH_ROWS, BATCH_BYTES // x.row_bytes))

    async def start(self) -> Model:
        """The model, which computes from now on, on the running event loop."""
        model = Model(
            self.bundle, self.make_engine, Limits(self.max_batch, 2**62, MAX_DRAWS, self.engine_threads, ENGINE_TIMEOUT)
        )
        model.start()
        return model

    async def answer(self, batches: Iterator[Batch], write: Callable[[pa.RecordBatch], None]) -> None:
        """Answer all batches, and have the answers written, in order.

        Raises:
            LowerboundError: From the batches, the model or the writing; whatever was written before is whole.
        """
        model = await self.start()
        under_way: asyncio.Queue[asyncio.Task[pa.RecordBatch] | None] = asyncio.Queue(self.engine_threads + 1)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._feed(batches, model, under_way, tasks))
                while (task := await under_way.get()) is not None:
                    await asyncio.to_thread(write, await task)
        except* Exception as errors:
            raise _first(errors) from None
        finally:
            await model.stop()

    async def _feed(
        self,
        batches: Iterator[Batch],
        model: Model,
        under_way: "asyncio.Queue[asyncio.Task[pa.RecordBatch] | None]",
        tasks: asyncio.TaskGroup,
    ) -> None:
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            await under_way.put(tasks.create_task(self.answer_one(model, batch)))
        await under_way.put(None)

    async def answer_one(self, model: Model, batch: Batch) -> pa.RecordBatch:
        """The answers to a batch, row by row: where each comes from, its numbers, its strangest cells, its problem.

        Raises:
            LowerboundError: From the model.
            InvalidError: A column that is to be kept has the name of an answer.
        """
        rows = Rows.among(batch.x, batch.marks.where_unseen(self.query.unseen or "mark"), MARKING)
        answer, too_far = await self.operation(model, rows.x, self.query)
        columns = rows.answer(answer, too_far)
        problems = [text and batch.in_file(text) for text in columns.pop(PROBLEM)]
        data = model.manifest.input
        answers = write_batch(render(columns, data) if isinstance(data, TabularInput) else columns)
        arrays = batch.places
        if clash := [name for name in (*answers.schema.names, PROBLEM) if name in arrays]:
            raise InvalidError(f"the answers have a column {clash[0]!r} too; rename the one in the file", "--keep")
        arrays |= dict(zip(answers.schema.names, answers.columns, strict=True))
        if isinstance(data, TabularInput) and "feature_surprise" in answer:
            arrays |= strangest_cells(rows, answer, data)
        return pa.RecordBatch.from_pydict(arrays | {PROBLEM: pa.array(problems, pa.string())})


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
