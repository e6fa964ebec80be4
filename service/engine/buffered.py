"""The engine for accelerators: every graph is bound to buffers of its own.

Batches of any size are computed at one of few sizes, the buckets: rows are put into pinned memory, copied to the
device, computed, and copied back. A CUDA graph can so be captured for each bucket, once, and be replayed. Rows beyond
those asked for hold what an earlier batch has left there; they are computed, and left out of the answer.

Each bucket has two sets of buffers, so that one batch is copied while another is computed. An engine's computing is
done by one thread of its own, since ONNX Runtime keeps captured graphs by thread.

Everything but the capture runs on the CPU too, where the tests hold it to `OnnxEngine`, bit by bit.
"""

import re
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from itertools import count
from queue import SimpleQueue
from threading import Lock, Thread
from typing import NamedTuple

import numpy as np
import onnxruntime as ort

from service.bundle import Array, Graph
from service.engine.buffers import UNCAPTURED, Buffers, is_by_row
from service.engine.devices import Precision, Target
from service.engine.engine import open_session
from service.errors import BundleError, DeviceMemoryError

SETS = 2
"""Sets of buffers for each bucket."""

PASSING = 32
"""Rungs that are kept of each graph beside those of the default draws: those used last."""

_OUT_OF_MEMORY = re.compile(
    r"smaller than requested bytes|[Ff]ailed to allocate memory|out of memory|bad_alloc|STATUS_ALLOC_FAILED"
)
"""In the words of ONNX Runtime's arenas, CUDA, C++, cuBLAS and cuDNN; there is no exception of its own for it."""

_Bucket = SimpleQueue[Buffers]
"""The sets of buffers that are free."""


class _Size(NamedTuple):
    rows: int
    draws: int


class BufferedEngine:
    """Runs a bundle on one device.

    The constructor computes every bucket of every graph once, with `draws`: what there is to compile, to capture or to
    choose is done before the first request. Rungs that the device has no memory for are left out.

    Args:
        graphs: The manifest's graphs.
        files: The bundle's files.
        target: Which device, and how it computes.
        max_batch: Most row-draws that are computed at once; larger batches are cut.
        draws: K, of most requests.
        capture: Whether to capture CUDA graphs where that can be.

    Raises:
        DeviceError: ONNX Runtime would run a graph elsewhere.
        DeviceMemoryError: The device has not the memory for one row.
        BundleError: A graph cannot be loaded, or its real inputs or outputs are not the manifest's.
    """

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        files: Mapping[str, bytes],
        target: Target,
        *,
        max_batch: int,
        draws: int,
        capture: bool = True,
    ) -> None:
        self.device: str = target.kind
        self.precision = target.precision
        self.refused: Mapping[Precision, float] = {}
        thread = _Thread()
        self._graphs = {
            name: _BufferedGraph(graph, *_open(files, name, graph, target, capture=capture), target, thread, max_batch)
            for name, graph in graphs.items()
        }
        for graph in self._graphs.values():
            graph.warm_up(draws)

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self._graphs[graph].run(inputs)


class _BufferedGraph:
    """A graph, its session and its buckets."""

    def __init__(
        self,
        graph: Graph,
        session: ort.InferenceSession,
        captures: bool,
        target: Target,
        thread: "_Thread",
        max_batch: int,
    ) -> None:
        self._graph = graph
        self._session = session
        self._captures = captures
        self._target = target
        self._thread = thread
        self._max_batch = max_batch
        self._numbers = count(1)
        self._by_row = next(tensor.name for tensor in graph.inputs if is_by_row(tensor))
        self._shared = next((tensor.name for tensor in graph.inputs if not is_by_row(tensor)), None)
        self._lasting: dict[_Size, _Bucket] = {}
        self._passing: OrderedDict[_Size, _Bucket] = OrderedDict()
        self._looking = Lock()

    def warm_up(self, draws: int) -> None:
        """Compute every bucket once, the largest first: TensorRT compiles for the range of sizes that it has seen."""
        draws = draws if self._shared else 1
        while True:
            top = self._top(draws)
            try:
                for rows in (top, *batch_buckets(top)[:-1]):
                    self._lasting[_Size(rows, draws)] = bucket = self._new_bucket(_Size(rows, draws), lasting=True)
                    for _ in range(SETS):
                        buffers = bucket.get()
                        self._thread.run(buffers.compute)
                        bucket.put(buffers)
            except Exception as error:
                _require_out_of_memory(error, top)
            else:
                return
            self._lasting.clear()
            self._max_batch = top // 2 * draws

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        rows = len(inputs[self._by_row])
        draws = len(inputs[self._shared]) if self._shared else 1
        top = self._top(draws)
        return _joined([self._answer(inputs, start, min(start + top, rows), draws) for start in range(0, rows, top)])

    def _answer(self, inputs: Mapping[str, Array], start: int, stop: int, draws: int) -> dict[str, Array]:
        """The answer to rows [start, stop), in two halves where the device has not the memory for all of them."""
        try:
            return self._compute(inputs, start, stop, draws)
        except Exception as error:
            _require_out_of_memory(error, stop - start)
            with self._looking:
                self._passing.clear()
        middle = (start + stop) // 2
        return _joined([self._answer(inputs, start, middle, draws), self._answer(inputs, middle, stop, draws)])

    def _compute(self, inputs: Mapping[str, Array], start: int, stop: int, draws: int) -> dict[str, Array]:
        bucket = self._bucket(stop - start, draws)
        buffers = bucket.get()
        try:
            buffers.load(inputs, start, stop)
            self._thread.run(buffers.compute)
            return buffers.answer(stop - start)
        finally:
            bucket.put(buffers)

    def _top(self, draws: int) -> int:
        return max(1, self._max_batch // draws)

    def _bucket(self, rows: int, draws: int) -> _Bucket:
        """The lowest bucket that has room for so many rows."""
        size = _Size(next(bucket for bucket in batch_buckets(self._top(draws)) if bucket >= rows), draws)
        if size in self._lasting:
            return self._lasting[size]
        with self._looking:
            bucket = self._passing.get(size) or self._new_bucket(size, lasting=False)
            self._passing[size] = bucket
            self._passing.move_to_end(size)
            while len(self._passing) > PASSING:
                self._passing.popitem(last=False)
        return bucket

    def _new_bucket(self, size: _Size, *, lasting: bool) -> _Bucket:
        bucket: _Bucket = SimpleQueue()
        for _ in range(SETS):
            number = next(self._numbers) if lasting and self._captures else UNCAPTURED
            sizes = {"batch": size.rows, "draws": size.draws}
            bucket.put(Buffers(self._session, self._graph, sizes, self._target, number))
        return bucket


class _Thread:
    """One thread that does what it is given, in turn; it ends with the last reference to this object."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = SimpleQueue()
        Thread(target=_work, args=[self._calls], name="device", daemon=True).start()
        weakref.finalize(self, self._calls.put, None)

    def run(self, call: Callable[[], None]) -> None:
        """Do it; returns, or raises, when it is done."""
        done: Future[None] = Future()
        self._calls.put((call, done))
        done.result()


def _work(calls: SimpleQueue[tuple[Callable[[], None], Future[None]] | None]) -> None:
    while item := calls.get():
        call, done = item
        try:
            call()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)
        del item, call, done  # Which would keep an engine that is replaced, until there is a next call.


def batch_buckets(top: int) -> list[int]:
    """The sizes that batches of up to `top` rows are computed at: powers of two, and `top` itself."""
    return [*(2**i for i in range((top - 1).bit_length())), top]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ONNX Runtime failed for want of memory, of the device's or of an arena's limit."""
    return _OUT_OF_MEMORY.search(str(error)) is not None


def _require_out_of_memory(error: Exception, rows: int) -> None:
    """Raise what halving the rows cannot help."""
    if not is_out_of_memory(error):
        raise error
    if rows == 1:
        raise DeviceMemoryError("the device has not the memory for one row; ask for fewer draws") from error


def _joined(answers: list[dict[str, Array]]) -> dict[str, Array]:
    if len(answers) == 1:
        return answers[0]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def _open(
    files: Mapping[str, bytes], name: str, graph: Graph, target: Target, *, capture: bool
) -> tuple[ort.InferenceSession, bool]:
    """A session, and whether it captures: ONNX Runtime refuses that to graphs of which a part runs on the CPU."""
    if capture and target.provider.captures:
        try:
            return open_session(files, name, graph, target, capture=True), True
        except BundleError:
            pass  # Retried without capture, which raises any other error.
    return open_session(files, name, graph, target), False
