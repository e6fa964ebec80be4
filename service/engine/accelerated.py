"""The engine for accelerators: ONNX Runtime's own copies for every batch, and captured CUDA graphs for small ones.

ONNX Runtime copies the rows of a call to the device, and the answer into pinned memory, on a stream of that call.
Several calls are so under way at once. Launches take most of the time of few row-draws: these are replayed.

Everything but the capture runs on the CPU too, where the tests hold it to `OnnxEngine`, bit by bit.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Condition

import numpy as np
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import OrtDevice, OrtValue, OrtValueVector

from service.bundle import Array, Graph
from service.engine.devices import Precision, Target
from service.engine.engine import open_session
from service.engine.pinned import PinnedMemory
from service.engine.replay import Replay
from service.errors import BundleError, DeviceMemoryError

REPLAYED = 1024
"""Most row-draws that are replayed. An estimate: launches are most of the time below it. No GPU has measured it."""

_OUT_OF_MEMORY = re.compile(
    r"smaller than requested bytes|[Ff]ailed to allocate memory|out of memory|bad_alloc|STATUS_ALLOC_FAILED"
)
"""In the words of ONNX Runtime's arenas, CUDA, C++, cuBLAS and cuDNN; there is no exception of its own for it."""

_HOST = OrtDevice(OrtDevice.cpu(), OrtDevice.default_memory(), 0)

_log = logging.getLogger("service")


class AcceleratedEngine:
    """Runs a bundle on one device.

    The constructor computes the largest batch and one row of every graph, with `draws`: what there is to compile, to
    capture or to choose is done before the first request.

    Args:
        graphs: The manifest's graphs.
        files: The bundle's files.
        target: Which device, and how it computes.
        max_batch: Row-draws of the largest batch that is to be expected.
        draws: K, of most requests.
        replayed: Most row-draws that are replayed, where the device captures; 0: none.

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
        replayed: int = REPLAYED,
    ) -> None:
        self.device = target.kind
        self.precision = target.precision
        self.refused: Mapping[Precision, float] = {}
        memory = PinnedMemory(target.provider)
        with _runs.beside_others():
            self._graphs = {
                name: _AcceleratedGraph(graph, open_session(files, name, graph, target), memory)
                for name, graph in graphs.items()
            }
        for graph in self._graphs.values():
            graph.warm_up(max_batch, draws)
        self._replays = {
            name: replay
            for name, graph in graphs.items()
            if target.provider.captures and (replay := _captured(files, name, graph, target, draws, replayed))
        }

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        replay = self._replays.get(graph)
        if replay and replay.takes(inputs):
            with _runs.beside_others():
                return replay.run(inputs)
        return self._graphs[graph].run(inputs)


class _AcceleratedGraph:
    """A graph and its session."""

    def __init__(self, graph: Graph, session: ort.InferenceSession, memory: PinnedMemory) -> None:
        self._graph = graph
        self._session = session
        self._memory = memory
        self._inputs = [tensor.name for tensor in graph.inputs]
        self._outputs = [tensor.name for tensor in graph.outputs]
        self._by_row = next(tensor.name for tensor in graph.inputs if tensor.is_by_row)
        self._shared = next((tensor.name for tensor in graph.inputs if not tensor.is_by_row), None)

    def warm_up(self, max_batch: int, draws: int) -> None:
        """Compute the largest batch and one row: TensorRT compiles for the range of sizes that it has seen."""
        draws = draws if self._shared else 1
        for rows in (max(1, max_batch // draws), 1):
            self.run({t.name: np.zeros(t.sizes(rows, draws), t.dtype) for t in self._graph.inputs})

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The answer, in two halves where the device has not the memory for all rows."""
        try:
            with _runs.beside_others():
                return self._compute(inputs)
        except Exception as error:
            rows = len(inputs[self._by_row])
            if not is_out_of_memory(error):
                raise
            if rows == 1:
                raise DeviceMemoryError("the device has not the memory for one row; ask for fewer draws") from error
        halves = [self.run(self._some(inputs, half)) for half in (slice(rows // 2), slice(rows // 2, rows))]
        return {name: np.concatenate([half[name] for half in halves]) for name in self._outputs}

    def _compute(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        rows, draws = len(inputs[self._by_row]), len(inputs[self._shared]) if self._shared else 1
        # The runtime reads and writes these arrays where they lie.
        given = {name: np.ascontiguousarray(inputs[name]) for name in self._inputs}
        answer = {t.name: self._memory.array(t.sizes(rows, draws), t.dtype) for t in self._graph.outputs}
        self._session.run_with_ortvaluevector(
            ort.RunOptions(), self._inputs, _vector(given), self._outputs, _vector(answer), [_HOST] * len(answer)
        )
        return answer

    def _some(self, inputs: Mapping[str, Array], rows: slice) -> dict[str, Array]:
        return {t.name: inputs[t.name][rows] if t.is_by_row else inputs[t.name] for t in self._graph.inputs}


class _Runs:
    """Calls of the device go on side by side, but not beside a capture.

    CUDA forbids much in all threads of the process while a graph is captured in one of them.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._under_way = 0
        self._captures = 0

    @contextmanager
    def beside_others(self) -> Iterator[None]:
        """A call; it waits for the captures that wait or are under way."""
        with self._changed:
            self._changed.wait_for(lambda: not self._captures)
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A capture; it waits for the calls that are under way."""
        with self._changed:
            self._changed.wait_for(lambda: not self._captures)
            self._captures = 1
            self._changed.wait_for(lambda: not self._under_way)
        try:
            yield
        finally:
            with self._changed:
                self._captures = 0
                self._changed.notify_all()


_runs = _Runs()


def _captured(
    files: Mapping[str, bytes], name: str, graph: Graph, target: Target, draws: int, most: int
) -> Replay | None:
    """The small batches of a graph, captured; None where it cannot be, as where a part of it runs on the CPU."""
    try:
        with _runs.alone():
            return Replay(open_session(files, name, graph, target, capture=True), graph, target, draws, most)
    except BundleError as error:  # ONNX Runtime says so when it loads the graph.
        _log.debug("%s.onnx is not captured: %s", name, error)
    except Exception as error:  # A capture that fails has no exception of its own.
        _log.warning("%s.onnx: its capture failed, it is computed without: %s", name, error)
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ONNX Runtime failed for want of memory, of the device's or of an arena's limit."""
    return _OUT_OF_MEMORY.search(str(error)) is not None


def _vector(arrays: Mapping[str, Array]) -> OrtValueVector:
    vector = OrtValueVector()
    for array in arrays.values():
        vector.push_back(OrtValue.ortvalue_from_numpy(array, _HOST))
    return vector
