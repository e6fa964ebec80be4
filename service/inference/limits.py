"""Limits of the work of a model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of the work of one model; row-draws are rows × draws of the decoder.

    Attributes:
        max_batch: Most row-draws in one engine call.
        max_queue: Most row-draws waiting, and in one request.
        max_draws: Most draws for one row.
        engine_threads: Engine calls at once.
        engine_timeout: Seconds that one of them may take.
    """

    max_batch: int
    max_queue: int
    max_draws: int
    engine_threads: int
    engine_timeout: float
