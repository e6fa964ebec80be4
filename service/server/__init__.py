"""HTTP/1.1 and shutdown: from a socket to an ASGI application."""

from service.server.connection import Connection
from service.server.process import end_process, tune_process
from service.server.server import Server
from service.server.supervisor import Supervisor

__all__ = ["Connection", "Server", "Supervisor", "end_process", "tune_process"]
