"""HTTP/1.1 and shutdown: from a socket to an ASGI application."""

from service.server.connection import Connection
from service.server.process import tune_process
from service.server.server import Server, Supervisor

__all__ = [
    "Connection",
    "Server",
    "Supervisor",
    "tune_process",
]
