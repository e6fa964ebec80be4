"""Graphs on a device: engines, and how one is chosen."""

from service.engine.devices import Device, Precision
from service.engine.engine import RELATIVE_TOLERANCE, Engine, OnnxEngine, golden_error, prove
from service.engine.factory import Placement

__all__ = [
    "RELATIVE_TOLERANCE",
    "Device",
    "Engine",
    "OnnxEngine",
    "Placement",
    "Precision",
    "golden_error",
    "prove",
]
