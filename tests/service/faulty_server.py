"""The service on engines with a fault: `python -m tests.service.faulty_server FILE [flags]`.

FILE may hold a fault (see `FaultyEngine`) and how many engines have it: the first so many that the process makes.
"""

import itertools
import sys
from collections.abc import Mapping
from pathlib import Path

from service.bundle import Array, Bundle
from service.cli import main
from service.engine import EngineFactory
from tests.service.faulty_engine import FaultyEngine

FILE = Path(sys.argv.pop(1))
NUMBERS = itertools.count(1)


class SwitchedEngine(FaultyEngine):
    """An engine that looks up its fault at every call."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self._number = next(NUMBERS)

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        fault, _, engines = FILE.read_text().partition(" ")
        self.fault = fault if self._number <= int(engines or 0) else ""
        return super().run(graph, inputs)


def make_engine(factory: EngineFactory, bundle: Bundle) -> SwitchedEngine:
    return SwitchedEngine(bundle)


EngineFactory.engine = make_engine  # type: ignore[method-assign,assignment]
sys.exit(main(["serve", *sys.argv[1:]]))
