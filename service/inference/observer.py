"""Observers of a model: metrics and drift, which inference does not know."""

from service.bundle import Array, Bundle
from service.inference.jobs import Report


class Observer:
    """Gets the reports of a bundle's model, on the event loop. This one takes no notice of them."""

    def __init__(self, bundle: Bundle) -> None: ...

    def computed(self, report: Report) -> None:
        """One engine call has ended. Calls on golden rows are reported only if they failed."""

    def scored(self, elbo: Array, score: Array, p_value: Array) -> None:
        """Rows have been scored just as the held-out rows were; each argument has shape (batch,).

        ELBO and score are NaN in a row that is too far away for finite ones.
        """

    def watched(self, ready: bool, replaced: int) -> None:
        """Whether the engine answers its golden rows as it should, where that has changed; engines replaced by now."""
