"""Buffers: memory for batches of one size on the host and on a device, bound to a session.

They stay at their addresses, as a captured CUDA graph needs it. Device memory comes from an allocator outside the
sessions: a captured graph goes on using the memory that its session had during the capture.
"""

from collections.abc import Mapping

import onnxruntime as ort

from service.bundle import Array, Graph, Tensor
from service.engine.devices import Target

UNCAPTURED = -1
"""Instead of a number: compute without a CUDA graph."""


class Buffers:
    """One batch's memory.

    Args:
        session: What computes.
        graph: Its inputs and outputs.
        sizes: What the names in their shapes stand for.
        target: Where it computes.
        capture: Number of the CUDA graph that is captured of the first computation, and replayed by the others; of a
            session that captures, no other buffers may have it.
    """

    def __init__(
        self, session: ort.InferenceSession, graph: Graph, sizes: Mapping[str, int], target: Target, capture: int
    ) -> None:
        self._session = session
        self._staged: dict[str, Array] = {}
        self._shared: dict[str, Array] = {}
        self._inputs: dict[str, ort.OrtValue] = {}
        self._outputs: dict[str, ort.OrtValue] = {}
        self._binding = session.io_binding()
        for tensor in graph.inputs:
            value = self._inputs[tensor.name] = _on_device(tensor, sizes, target)
            self._binding.bind_ortvalue_input(tensor.name, value)
            staged = target.provider.staging(value.shape(), tensor.dtype)
            value.update_inplace(staged)  # Zeros, because rows without data are computed, too.
            if is_by_row(tensor):
                self._staged[tensor.name] = staged
        for tensor in graph.outputs:
            value = self._outputs[tensor.name] = _on_device(tensor, sizes, target)
            self._binding.bind_ortvalue_output(tensor.name, value)
        self._on_host = target.provider.memory_kind == "cpu"
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(capture))

    def load(self, inputs: Mapping[str, Array], start: int, stop: int) -> None:
        """Copy rows [start, stop) of the inputs to the device, and what rows share unless it is there already."""
        for name, staged in self._staged.items():
            staged[: stop - start] = inputs[name][start:stop]
            self._inputs[name].update_inplace(staged)
        for name in self._inputs.keys() - self._staged.keys():
            if self._shared.get(name) is not inputs[name]:
                self._inputs[name].update_inplace(inputs[name])
                self._shared[name] = inputs[name]

    def compute(self) -> None:
        """Run the session."""
        self._session.run_with_iobinding(self._binding, self._options)

    def answer(self, rows: int) -> dict[str, Array]:
        """The outputs of the first so many rows."""
        arrays = {name: value.numpy()[:rows] for name, value in self._outputs.items()}
        # On a device `numpy` has copied already.
        return {name: array.copy() for name, array in arrays.items()} if self._on_host else arrays


def is_by_row(tensor: Tensor) -> bool:
    """Whether a tensor has an entry for each row, and is not shared by all."""
    return tensor.shape[0] == "batch"


def _on_device(tensor: Tensor, sizes: Mapping[str, int], target: Target) -> ort.OrtValue:
    shape = [sizes[size] if isinstance(size, str) else size for size in tensor.shape]
    return ort.OrtValue.ortvalue_from_shape_and_type(shape, tensor.dtype, target.provider.memory_kind, target.number)
