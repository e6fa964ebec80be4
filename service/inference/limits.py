"""Limits of the work of a model."""

from dataclasses import dataclass, replace
from typing import Self

from service.engine import ROW_VALUES
from service.errors import TooLargeError

MAX_ENGINE_THREADS = 1024
"""More than any machine has cores; each is two threads of the process."""

DEFAULT_MAX_DRAWS = 4096
"""Draws for one row, unless the operator says how many."""


@dataclass(frozen=True)
class Limits:
    """Limits of the work of one model; row-draws are rows × draws of the decoder.

    Attributes:
        max_batch: Most row-draws in one engine call.
        max_queue: Most row-draws waiting, and in one request.
        max_draws: Most draws for one row; None: `DEFAULT_MAX_DRAWS`, or as many as fit into a batch.
        engine_threads: Engine calls at once.
        engine_timeout: Seconds that one of them may take.
        max_answer: Most bytes of the arrays of one answer.
    """

    max_batch: int
    max_queue: int
    max_draws: int | None
    engine_threads: int
    engine_timeout: float
    max_answer: int = 2**62

    def of(self, values: int, own_draws: int) -> Self:
        """The limits of a model whose rows have so many values, and by default so many draws, which always fit."""
        fitting = max(own_draws, self.max_batch * ROW_VALUES // values)
        draws = self.max_draws or max(own_draws, min(DEFAULT_MAX_DRAWS, fitting))
        return replace(self, max_batch=min(self.max_batch, fitting), max_draws=draws)

    def check(self, rows: int, draws: int, place: str, times: int = 1, why: str = "") -> None:
        """Refuse, before anything of its size is made, what could never be computed: each row so many times."""
        limit = self.max_queue
        if self.max_draws is not None and draws > self.max_draws:
            raise TooLargeError(f"{draws:,} draws; at most {self.max_draws:,} are made", place)
        if rows * draws * times > limit:
            fitting = limit // (draws * times)
            advice = f"send at most {fitting:,} rows" if fitting else f"ask for at most {limit // times:,} draws"
            raise TooLargeError(
                f"{rows:,} rows × {draws:,} draws{f', each {why},' if why else ''} are {rows * draws * times:,} draws; "
                f"one request may ask for {limit:,}: {advice}",
                place,
            )

    def answer_cost(self, rows: int, size: int, place: str) -> int:
        """The cost in row-draws of an answer of so many bytes for each row, by its share of `max_answer`.

        So all that are admitted at once take no more memory than one may. One row is never too many.

        Raises:
            TooLargeError: The answer has more bytes than it may.
        """
        fitting = max(1, self.max_answer // size)
        if rows > fitting:
            raise TooLargeError(
                f"{rows:,} rows × {size:,} bytes; one answer may have {self.max_answer:,}: ask for at most "
                f"{fitting:,} rows",
                place,
            )
        return max(rows, rows * size * self.max_queue // self.max_answer)
