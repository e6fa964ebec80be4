"""Replay: the small batches of a graph as captured CUDA graphs.

A captured graph reads and writes the same memory each time, so that batches are filled up to one of few sizes. Rows
beyond those asked for hold what an earlier batch has left there; they are computed, and left out of the answer.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import onnxruntime as ort

from service.bundle import Array, Graph, Tensor
from service.engine.devices import Target


class Replay:
    """The batches of 1, 2, 4, … rows of a graph, each captured once.

    ONNX Runtime keeps captured graphs by thread, so that one thread computes all of them. It ends with this object.

    Args:
        session: Of a session that captures; no other object may use it.
        graph: Its inputs and outputs.
        target: Where it computes.
        draws: K of every batch.
        most: Row-draws of the largest batch.
    """

    def __init__(self, session: ort.InferenceSession, graph: Graph, target: Target, draws: int, most: int) -> None:
        self._by_row = next(tensor.name for tensor in graph.inputs if tensor.is_by_row)
        self._shared = next((tensor.name for tensor in graph.inputs if not tensor.is_by_row), None)
        self._draws = draws if self._shared else 1
        self._thread = ThreadPoolExecutor(1, "replay")
        rows = [2**i for i in range(most.bit_length()) if 2**i * self._draws <= most]
        self._batches = {
            size: _Batch(session, graph, size, self._draws, target, number) for number, size in enumerate(rows, 1)
        }
        for batch in reversed(self._batches.values()):  # The largest allocates enough memory for the others.
            self._thread.submit(batch.compute).result()

    def takes(self, inputs: Mapping[str, Array]) -> bool:
        """Whether there is a captured batch for so many rows and draws."""
        if self._shared and len(inputs[self._shared]) != self._draws:
            return False
        return len(inputs[self._by_row]) <= max(self._batches, default=0)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The answer to a batch that `takes` accepts."""
        rows = len(inputs[self._by_row])
        batch = self._batches[1 << (rows - 1).bit_length()]
        return self._thread.submit(batch.answer, inputs, rows).result()


class _Batch:
    """The memory of a batch of one size, on the host and on the device, and the captured graph that uses it.

    Device memory comes from an allocator outside the session: a captured graph goes on using what its session had
    during the capture.
    """

    def __init__(
        self, session: ort.InferenceSession, graph: Graph, rows: int, draws: int, target: Target, number: int
    ) -> None:
        self._session = session
        self._staged: dict[str, Array] = {}
        self._shared: dict[str, Array] = {}
        self._inputs: dict[str, ort.OrtValue] = {}
        self._outputs: dict[str, ort.OrtValue] = {}
        self._binding = session.io_binding()

        def on_device(tensor: Tensor) -> ort.OrtValue:
            kind = target.provider.memory_kind
            shape = tensor.sizes(rows, draws)
            return ort.OrtValue.ortvalue_from_shape_and_type(shape, tensor.dtype, kind, target.number)

        for tensor in graph.inputs:
            value = self._inputs[tensor.name] = on_device(tensor)
            self._binding.bind_ortvalue_input(tensor.name, value)
            staged = target.provider.staging(value.shape(), tensor.dtype)
            value.update_inplace(staged)  # Zeros, because rows without data are computed, too.
            if tensor.is_by_row:
                self._staged[tensor.name] = staged
        for tensor in graph.outputs:
            value = self._outputs[tensor.name] = on_device(tensor)
            self._binding.bind_ortvalue_output(tensor.name, value)
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(number))

    def compute(self) -> None:
        """Capture the graph, the first time; later replay it."""
        self._session.run_with_iobinding(self._binding, self._options)

    def answer(self, inputs: Mapping[str, Array], rows: int) -> dict[str, Array]:
        """The outputs of so many rows. An input that all rows share is copied unless it is there already."""
        for name, value in self._inputs.items():
            if (staged := self._staged.get(name)) is not None:
                staged[:rows] = inputs[name]
                value.update_inplace(staged)
            elif self._shared.get(name) is not inputs[name]:
                value.update_inplace(inputs[name])
                self._shared[name] = inputs[name]
        self.compute()
        # A copy, as the next batch overwrites the memory that `numpy` shows of the CPU.
        return {name: value.numpy()[:rows].copy() for name, value in self._outputs.items()}
