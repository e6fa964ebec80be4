"""Options of a client, and the parameters of its methods."""

from dataclasses import dataclass
from typing import TypedDict


class RowParameters(TypedDict, total=False):
    """How the service treats rows: see `POST /elbo` and `POST /encode` in the reference of the HTTP endpoints."""

    seed: int
    num_draws: int
    on_error: str
    unseen: str
    extra: str
    timeout: float


class ScoreParameters(RowParameters, total=False):
    """How rows are scored: see `POST /elbo` in the reference of the HTTP endpoints."""

    score: str
    refine: int
    explain: bool
    fdr: float
    observe: bool


@dataclass(frozen=True)
class Options:
    """How a client talks to a service.

    Attributes:
        key: The API key, where the service asks for one.
        model: The model's name; the service's default if None.
        version: Its version; the latest if None.
        batch_rows: Rows in a request at most. The client sends fewer where the service says that they are too many.
        concurrency: Requests under way at most.
        timeout: Seconds until a request without an answer fails.
        patience: Seconds that a request waits at most, all waits together, while the service has no room.
    """

    key: str | None = None
    model: str | None = None
    version: int | None = None
    batch_rows: int = 4096
    concurrency: int = 4
    timeout: float = 60.0
    patience: float = 300.0


class OptionArguments(TypedDict, total=False):
    """The attributes of `Options`, by name."""

    key: str | None
    model: str | None
    version: int | None
    batch_rows: int
    concurrency: int
    timeout: float
    patience: float
