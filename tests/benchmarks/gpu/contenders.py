"""Ways of computing the reference model's graphs on a device, from arrays to arrays."""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from service.bundle import Array, Bundle, Graph
from service.engine import OnnxEngine
from service.engine.accelerated import AcceleratedEngine
from service.engine.devices import Kind, Target
from tests.benchmarks.serving.reference import Reference
from training.export.graphs import graph_modules


class Runs(Protocol):
    """As much of `Engine` as is measured."""

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `Engine`."""


Make = Callable[[Mapping[str, Graph], int], Runs]
"""From graphs and draws to what runs those graphs, made ready for so many draws."""


class Torch:
    """PyTorch, compiled or not, on the same weights. It has no refinement, whose autograd is traced at the export."""

    def __init__(
        self, reference: Reference, bundle: Bundle, graphs: Mapping[str, Graph], device: torch.device, *, compiled: bool
    ) -> None:
        reference.vae.cpu()  # The folder of the graphs; an earlier contender has moved it.
        self._device = device
        self._graphs = graphs
        modules = graph_modules(reference.vae, bundle.manifest.input, reference.rows)
        self._functions: dict[str, Callable[..., tuple[torch.Tensor, ...]]] = {
            name: torch.compile(modules[name].to(device), dynamic=True) if compiled else modules[name].to(device)
            for name in graphs
            if name != "refine"
        }

    @torch.no_grad()
    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        contract = self._graphs[graph]
        tensors = [torch.from_numpy(inputs[tensor.name]) for tensor in contract.inputs]
        if self._device.type == "cuda":
            tensors = [tensor.pin_memory().to(self._device, non_blocking=True) for tensor in tensors]
        answer = self._functions[graph](*tensors)
        return {tensor.name: values.cpu().numpy() for tensor, values in zip(contract.outputs, answer, strict=True)}


def contenders(reference: Reference, bundle: Bundle, kind: Kind, max_batch: int) -> dict[str, Make]:
    """The maker of each, by name; it raises where a library is missing."""
    device = torch.device("cpu" if kind == "cpu" else "cuda")

    def pytorch(*, compiled: bool) -> Make:
        return lambda graphs, draws: Torch(reference, bundle, graphs, device, compiled=compiled)

    def accelerated(target: Target, *, replayed: int = 0) -> Make:
        return lambda graphs, draws: AcceleratedEngine(
            graphs, bundle.files, target, max_batch=max_batch, draws=draws, replayed=replayed
        )

    makers: dict[str, Make] = {
        "ONNX Runtime": lambda graphs, draws: OnnxEngine(graphs, bundle.files, kind),
        "accelerated": accelerated(Target(kind)),
        "torch": pytorch(compiled=False),
        "torch.compile": pytorch(compiled=True),
    }
    if kind != "cpu":
        makers |= {
            "accelerated, replayed": accelerated(Target(kind), replayed=max_batch),
            "the same in TF32": accelerated(Target(kind, precision="tf32"), replayed=max_batch),
            "TensorRT, TF32": accelerated(Target("tensorrt", precision="tf32")),
            "TensorRT, float16": accelerated(Target("tensorrt", precision="float16")),
        }
    return makers
