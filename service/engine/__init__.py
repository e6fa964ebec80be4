"""Graphs on a device: engines, and how one is chosen."""

from service.engine.devices import PROVIDERS, Device, Kind, Precision, choose
from service.engine.engine import RELATIVE_TOLERANCE, Engine, OnnxEngine, golden_error, verify_golden
from service.engine.factory import EngineFactory

__all__ = [
    "PROVIDERS",
    "RELATIVE_TOLERANCE",
    "Device",
    "Engine",
    "EngineFactory",
    "Kind",
    "OnnxEngine",
    "Precision",
    "choose",
    "golden_error",
    "verify_golden",
]
