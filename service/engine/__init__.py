"""Graphs on a device: engines, and how one is chosen."""

from service.engine.cores import available_cores
from service.engine.devices import PROVIDERS, Device, Kind, Precision, choose
from service.engine.engine import (
    RELATIVE_TOLERANCE,
    ROW_VALUES,
    Engine,
    OnnxEngine,
    fitting,
    golden_error,
    verify_golden,
)
from service.engine.factory import EngineFactory

__all__ = [
    "PROVIDERS",
    "RELATIVE_TOLERANCE",
    "ROW_VALUES",
    "Device",
    "Engine",
    "EngineFactory",
    "Kind",
    "OnnxEngine",
    "Precision",
    "available_cores",
    "choose",
    "fitting",
    "golden_error",
    "verify_golden",
]
