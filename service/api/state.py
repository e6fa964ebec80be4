"""What the application keeps for its requests and connections."""

from dataclasses import dataclass

from starlette.types import ASGIApp

from service.api.budget import ByteBudget
from service.codecs.child import ChildProcess
from service.inference import ModelLoader
from service.observability.metrics import Telemetry
from service.settings import Settings


@dataclass(slots=True)
class ServiceState:
    """The application's `state`. Starlette's own looks up each name by a function of Python, at each request.

    Attributes:
        settings: The service's.
        budget: Of the bytes of bodies in memory.
        answers: Of the bytes of answers in memory.
        child: Reads and writes large bodies.
        loader: Has the models served.
        telemetry: Counts requests.
        refuse: Answers requests that the connection refuses.
        draining: The server is about to end.
    """

    settings: Settings
    budget: ByteBudget
    answers: ByteBudget
    child: ChildProcess
    loader: ModelLoader
    telemetry: Telemetry
    refuse: ASGIApp
    draining: bool = False
