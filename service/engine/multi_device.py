"""The engines of several devices, as one engine."""

from collections.abc import Mapping, Sequence
from threading import Lock

from service.bundle import Array
from service.engine import Engine
from service.engine.devices import Precision


class MultiDeviceEngine:
    """Gives each call to the engine that has least under way, and of equals to the one that has waited longest.

    When idle it so takes its engines in turn, and golden rows that are asked again and again come to all of them.

    Args:
        engines: On devices of one kind, at one precision.
        refused: See `Engine`.
    """

    def __init__(self, engines: Sequence[Engine], refused: Mapping[Precision, float]) -> None:
        self.device = engines[0].device
        self.precision = engines[0].precision
        self.refused = refused
        self._loads = dict.fromkeys(engines, 0)
        self._dispatching = Lock()

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        load = sum(array.size for array in inputs.values())
        with self._dispatching:
            engine = min(self._loads, key=self._loads.__getitem__)
            self._loads[engine] = self._loads.pop(engine) + load  # Last of its equals from now on.
        try:
            return engine.run(graph, inputs)
        finally:
            with self._dispatching:
                self._loads[engine] -= load
