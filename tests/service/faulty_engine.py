"""An engine with a fault that can be switched on: it raises, hangs, waits, or answers what is not so."""

import threading
from collections.abc import Mapping

import numpy as np

from service.bundle import Array, Bundle
from service.engine import OnnxEngine


class FaultyEngine:
    """A bundle's engine on the CPU; `fault` is "raise", "hang", "wait", "nan", "wrong" or "".

    In an engine thread, who hangs does so until `hold` is set and then fails; who waits does so and then answers.
    """

    device = "cpu"
    precision = "float32"
    refused: Mapping[str, float] = {}

    def __init__(self, bundle: Bundle, fault: str = "") -> None:
        self.fault = fault
        self.hold = threading.Event()
        self.hanging = threading.Semaphore(0)
        self.calls: list[str] = []
        self._engine = OnnxEngine(bundle.manifest.graphs, bundle.files, "cpu")

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.calls.append(graph)
        held = self.fault in {"hang", "wait"} and threading.current_thread().name == "engine"
        if held:
            self.hanging.release()
            assert self.hold.wait(60)
        if self.fault == "raise" or (held and self.fault == "hang"):
            raise RuntimeError("CUDA failure 999: the device is lost")
        answer = self._engine.run(graph, inputs)
        if self.fault == "nan":
            return {name: np.full_like(values, np.nan) for name, values in answer.items()}
        if self.fault == "wrong":
            return {name: values + 1 for name, values in answer.items()}
        return answer
