"""An engine that is computed in the head, and scenarios of a batcher on it."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from service.inference import Report
from service.inference.batcher import Batcher
from service.inference.jobs import Work

Array = npt.NDArray[Any]
POISON = -1


class Arithmetic:
    """An engine that doubles, or adds what is shared; it remembers its calls, and chokes on the poison."""

    device = "cpu"

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.busy = threading.Semaphore(0)
        self._lock = threading.Lock()
        self.under_way = self.most_under_way = 0

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with self._lock:
            self.calls.append((graph, inputs["x"].ravel().tolist()))
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        self.busy.release()
        try:
            assert self.may_go_on.wait(30)
        finally:
            with self._lock:
                self.under_way -= 1
        if POISON in inputs["x"]:
            raise ValueError("poison")
        x = inputs["x"]
        return {"value": 2 * x if graph == "double" else x + inputs["shift"], "wide": np.stack([x, -x], axis=1)}


def work(*rows: int, graph: str = "double", draws: int = 1, shift: int = 0) -> Work:
    shared = {} if graph == "double" else {"shift": np.array(shift)}
    return Work(graph, {"x": np.array(rows)}, shared, key=shift, draws=draws)


def answer_to(task: Work) -> Array:
    x = task.rows["x"]
    return 2 * x if task.graph == "double" else x + task.shared["shift"]


def with_batcher(
    scenario: Callable[[Batcher, Arithmetic], Awaitable[None]],
    *,
    max_batch: int = 8,
    max_queue: int = 1000,
    engine_threads: int = 1,
    start: bool = True,
    observe: Callable[[Report], None] = lambda report: None,
) -> None:
    """Run a scenario; afterwards nothing may be left in the queue."""

    async def main() -> None:
        engine = Arithmetic()
        batcher = Batcher(
            engine, max_batch=max_batch, max_queue=max_queue, engine_threads=engine_threads, observe=observe
        )
        if start:
            batcher.start()
        try:
            await asyncio.wait_for(scenario(batcher, engine), 30)
        finally:
            engine.may_go_on.set()
            await batcher.stop(30)
        assert batcher.admitted == batcher._outstanding == 0
        assert not batcher._open

    asyncio.run(main())


async def admitted(batcher: Batcher, task: Work) -> dict[str, Array]:
    """What a request of one step does."""
    with batcher.admit(task.num_rows * task.draws):
        return await batcher.submit(task)


async def until_busy(engine: Arithmetic) -> None:
    """Wait until the engine has been called once more."""
    assert await asyncio.to_thread(engine.busy.acquire, timeout=30)
