"""Files of rows that are small enough for memory, and a model that answers without an event loop of the caller."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from service.bulk import job
from service.bulk.readers import open_inputs, read_from
from service.bundle import Array, Bundle, ImageInput, TabularInput
from service.engine import Device, EngineFactory, available_cores
from service.errors import FileError
from service.inference import Model
from service.readers.labels import FILE, ROW, names_of
from service.scoring import ElboQuery

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class WholeFile:
    """All rows of a file or folder.

    Attributes:
        keys: The name of each row.
        x: As the graphs take them, (rows, *shape).
        unreadable: What is wrong with rows, by number, that hold anything in `x`.
        unseen: What is wrong with a cell of other rows, by number, that is missing in `x`.
    """

    keys: list[str]
    x: Array
    unreadable: dict[int, str]
    unseen: dict[int, str]


def read_whole(path: str, data: ImageInput | TabularInput, key: str) -> WholeFile:
    """Read all rows of a file or folder.

    The column `key` names them; `row` is their number, or of pictures the name of their file.

    Raises:
        FileError: The path cannot be read, or has no rows, or no column `key`.
    """
    keys: list[str] = []
    parts: list[Array] = []
    unreadable: dict[int, str] = {}
    unseen: dict[int, str] = {}
    inputs = open_inputs([path], data, [] if key in {ROW, FILE} else [key])
    for batch in read_from(inputs, 0, job.BATCH_ROWS):
        before = len(keys)
        unreadable |= {before + row: batch.in_file(str(error)) for row, error in batch.marks.unreadable.items()}
        unseen |= {before + row: batch.in_file(str(errors[0])) for row, errors in batch.marks.unseen.items()}
        places = batch.places
        keys += names_of(places.get(key, places[FILE]))
        parts.append(batch.x)
    if not keys:
        raise FileError(f"{path}: no rows")
    return WholeFile(keys, np.concatenate(parts), unreadable, unseen)


@contextmanager
def open_model(bundle: Bundle, device: Device) -> Iterator[Callable[[Callable[[Model], Coroutine[Any, Any, T]]], T]]:
    """A bundle's model, which runs what it is given until it has an answer."""
    factory, threads = EngineFactory(device), available_cores()
    work = job.BulkJob(bundle, factory.engine, factory.max_batch, threads, job.score, ElboQuery())
    with asyncio.Runner() as runner:
        model = runner.run(work.start())
        try:
            yield lambda ask: runner.run(ask(model))
        finally:
            runner.run(model.stop())
