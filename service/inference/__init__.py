"""Many requests, few engine calls: live models, how they come and go, and how they are watched."""

from service.inference.batcher import Report
from service.inference.loader import Repository
from service.inference.model import Limits, Model
from service.inference.registry import Catalogue
from service.inference.watchdog import MakeEngine

__all__ = [
    "Catalogue",
    "Limits",
    "MakeEngine",
    "Model",
    "Report",
    "Repository",
]
