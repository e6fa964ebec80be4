"""Many requests, few engine calls: live models, how they come and go, and how they are watched."""

from service.inference.jobs import Report
from service.inference.limits import Limits
from service.inference.loader import ModelLoader
from service.inference.model import Model
from service.inference.observer import Observer
from service.inference.registry import ModelRegistry
from service.inference.watchdog import MakeEngine

__all__ = ["Limits", "MakeEngine", "Model", "ModelLoader", "ModelRegistry", "Observer", "Report"]
