"""A cluster: the same batches, read and answered on many machines by Ray Data, their answers in order here.

Tasks read slices of the inputs, a pool of engines answers their batches. What is lost with a machine Ray has done again
elsewhere: a row's answer is the same bits wherever it is computed.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from threading import Thread
from typing import Any, Self

import pyarrow as pa
import pyarrow.ipc
import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from service.bulk.batches import Input
from service.bulk.job import BATCH_BYTES, BulkJob
from service.engine import PROVIDERS, Device
from service.errors import DeviceError, LowerboundError

SLICE_BATCHES = 16
"""Batches that one task reads; of a file that must be read from its beginning, all."""


class Cluster:
    """A Ray cluster, connected to while it is entered.

    Args:
        address: Of its head, or `auto`: the one that this machine belongs to.
        device: What the engines compute on.
        engine_threads: Batches that each computes at once, and the cores that it is given; those of the smallest
            machine if not told.

    Raises:
        DeviceError: There is no such cluster, or it has not what one engine takes.
    """

    def __init__(self, address: str, device: Device, engine_threads: int | None) -> None:
        self._address = address
        self._device = device
        self._engine_threads = engine_threads

    def __enter__(self) -> Self:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        try:
            ray.init(self._address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError) as error:
            raise DeviceError(f"no Ray cluster at {self._address}: {error}") from error
        return self

    def __exit__(self, *error: object) -> None:
        ray.shutdown()

    def answer(
        self, job: BulkJob, inputs: Sequence[Input], start: int, write: Callable[[pa.RecordBatch], None]
    ) -> None:
        """Answer all rows from the one numbered `start` on, and have the answers written, in order.

        Raises:
            LowerboundError: From the inputs, the model or the writing; whatever was written before is whole.
        """
        engines, cores, gpus = self._engines()
        slices = list(_slices(inputs, start, job.batch_rows))
        if not slices:  # All are there, and were only not called so.
            return
        context = DataContext.get_current()
        context.execution_options.preserve_order = True
        context.target_max_block_size = BATCH_BYTES
        context.enable_progress_bars = False
        answers = (
            ray.data.from_items(slices, override_num_blocks=len(slices))
            .flat_map(
                _read_slice,
                fn_args=(inputs, job.batch_rows),
                num_cpus=0,
                compute=TaskPoolStrategy(min(engines, len(slices))),
            )
            .map(
                _Engine,
                fn_constructor_args=(replace(job, engine_threads=cores),),
                compute=ActorPoolStrategy(min_size=1, max_size=engines),
                num_cpus=0 if gpus else cores,
                num_gpus=gpus,
            )
        )
        for row in answers.iter_rows():
            if row["problem"]:
                raise LowerboundError(row["problem"])
            with pyarrow.ipc.open_stream(row["answers"]) as stream:
                write(stream.read_next_batch())

    def _engines(self) -> tuple[int, int, int]:
        """How many engines there is room for; the cores and the GPUs that each takes."""
        found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        wanted = self._device == "auto" or PROVIDERS[self._device].accelerates
        gpus = int(sum(node.get("GPU", 0) for node in found)) if wanted else 0
        cores = [int(node["CPU"]) for node in found if node.get("CPU", 0) >= 1]
        each = self._engine_threads or min(cores, default=1)
        engines = gpus or sum(have // each for have in cores)
        if not engines:
            raise DeviceError(f"{self._address}: no machine has {each} cores for an engine")
        return engines, each, min(gpus, 1)


def _read_slice(row: dict[str, Any], inputs: Sequence[Input], batch_rows: int) -> Iterator[dict[str, Any]]:
    """The batches of a slice, or what is wrong with one."""
    rows = row["rows"]
    try:
        for batch in inputs[row["input"]].read(row["start"], batch_rows):
            yield {"batch": batch.first(rows), "problem": ""}
            rows -= len(batch.x)
            if rows <= 0:
                break
    except LowerboundError as error:
        yield {"batch": None, "problem": str(error)}


class _Engine:
    """An engine in a process of its own, and the event loop of its model in a thread."""

    def __init__(self, job: BulkJob) -> None:
        self._job = job
        self._loop = asyncio.new_event_loop()
        Thread(target=self._loop.run_forever, daemon=True).start()
        self._problem = ""
        try:
            self._model = asyncio.run_coroutine_threadsafe(job.start(), self._loop).result()
        except LowerboundError as error:
            self._problem = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A batch's answers, or what is wrong with one of its rows, or with this machine."""
        if problem := row["problem"] or self._problem:
            return {"answers": None, "problem": problem}
        answering = self._job.answer_one(self._model, row["batch"])
        try:
            answers = asyncio.run_coroutine_threadsafe(answering, self._loop).result()
        except LowerboundError as error:
            return {"answers": None, "problem": str(error)}
        sink = pa.BufferOutputStream()  # As bytes: of anything like an array Ray Data makes arrays of its own.
        with pyarrow.ipc.new_stream(sink, answers.schema) as stream:
            stream.write_batch(answers)
        return {"answers": sink.getvalue().to_pybytes(), "problem": ""}


def _slices(inputs: Sequence[Input], start: int, batch_rows: int) -> Iterator[dict[str, int]]:
    """The slice that each task reads, from the row numbered `start` on."""
    for i, source in enumerate(inputs):
        count = source.count()
        step = SLICE_BATCHES * batch_rows if source.seeks else count
        for first in range(start, count, max(step, 1)):
            yield {"input": i, "start": first, "rows": min(step, count - first)}
        start = max(0, start - count)
