"""The Python client, installed as `lowerbound`: `from lowerbound import Client, AsyncClient`."""

from .client import AsyncClient, Client
from .discoveries import NoDiscoveryWarning
from .errors import (
    DeadlineError,
    InvalidError,
    LowerboundError,
    NotFoundError,
    OverloadedError,
    ServiceError,
    TooLargeError,
    UnauthorizedError,
    UnreachableError,
)

__all__ = [
    "AsyncClient",
    "Client",
    "DeadlineError",
    "InvalidError",
    "LowerboundError",
    "NoDiscoveryWarning",
    "NotFoundError",
    "OverloadedError",
    "ServiceError",
    "TooLargeError",
    "UnauthorizedError",
    "UnreachableError",
]
