"""Servers: uvicorn's, with a look at every connection twice a second, and an end within the grace."""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import uvicorn
from uvicorn.config import Config

from service.server.connection import Connection
from service.server.crowd import Crowd

MARGIN = 2.0
"""Seconds beyond the grace after which a process that still has not ended is made to."""

_ACCEPT = 0.1
"""Seconds in which connections that wait for it are accepted and read before the port closes."""

_TOGETHER = 0.3
"""Seconds in which all workers close the port, after signals that uvicorn looks for every 0.1 seconds."""

_CHECK_EVERY = 0.5
"""Seconds between two looks at the connections."""

logger = logging.getLogger("service")


class Server(uvicorn.Server):
    """One process's server.

    Args:
        config: See uvicorn; its application has the state that `Connection` needs.
        beat: Called with every look at the connections. Where it raises `BrokenPipeError`, the server ends.
    """

    def __init__(self, config: Config, beat: Callable[[], None] | None = None) -> None:
        super().__init__(config)
        self.server_state = Crowd()
        self._beat = beat

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and begin to look."""
        await super().startup(sockets)
        self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._check(loop.time())
            if self._beat is not None:
                try:
                    self._beat()
                except BrokenPipeError:  # The parent has ended.
                    self.should_exit = True
            await asyncio.sleep(_CHECK_EVERY)

    def _check(self, now: float) -> None:
        for connection in cast("set[Connection]", self.server_state.connections.copy()):
            connection.check(now)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer the requests in flight, and end; a request that takes longer than the grace is cancelled."""
        self.config.loaded_app.state.draining = True
        grace = self.config.timeout_graceful_shutdown or 0
        forced = threading.Timer(grace + MARGIN, _end_now)
        forced.daemon = True
        with suppress(RuntimeError):  # No thread can be started; an end that does not hang needs none.
            forced.start()
        await asyncio.sleep(_ACCEPT)
        if sockets:  # A client that is told to connect anew must not meet the port of a worker that closes it then.
            for server in self.servers:
                server.close()
            for listener in sockets:
                listener.close()
            await asyncio.sleep(_TOGETHER)
        await super().shutdown(sockets)


def _end_now() -> None:
    logger.critical("something does not end within %g seconds after the grace; the process ends", MARGIN)
    os._exit(0)
