"""Graphs on a device: engines, and how one is chosen."""

from service.engine.devices import Device, Precision
from service.engine.engine import RELATIVE_TOLERANCE, Engine, OnnxEngine, golden_error, verify_golden
from service.engine.factory import EngineFactory

__all__ = [
    "RELATIVE_TOLERANCE",
    "Device",
    "Engine",
    "EngineFactory",
    "OnnxEngine",
    "Precision",
    "golden_error",
    "verify_golden",
]
