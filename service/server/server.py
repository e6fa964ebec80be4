"""Servers: one process, or several on one port, from the start to the end, at which no request is lost.

uvicorn closes its port and the idle connections as soon as it is told to stop: what was on its way to them is lost.
Here newcomers are turned away first, which leaves those who have come to be accepted; whoever is connected is answered,
and told that this was the last answer; and connections are closed that have been idle for a while.

This module must not know about HTTP, models or what requests mean.
"""

import asyncio
import ctypes
import logging
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

import uvicorn
from uvicorn.config import Config
from uvicorn.supervisors import multiprocess

HANDSHAKE = 0.2
"""Seconds in which who has begun to connect can do so: a round trip to the other side of the world."""

_HEAR_EVERY = HANDSHAKE / 4
"""Seconds after which a parent has heard a signal: before its servers stop to accept, if they got the same signal."""

_CHECK_EVERY = 0.5
"""Seconds between two looks of a parent at its servers."""

_TICK = 0.02
"""Seconds between two looks of a server at what is still to be answered."""

_SO_ATTACH_FILTER = 26
_WITHOUT_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
"""A packet filter: load the flags of the TCP header; if they have SYN, take nothing; else all."""

logger = logging.getLogger("service")


class Server(uvicorn.Server):
    """One process's server, or one of several that share a socket.

    In that case their parent turns newcomers away, if all of them end; if not, the others accept whoever comes.
    """

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the end. Ctrl-C reaches all processes; of several, their parent tells the others when it is time."""
        if sig != signal.SIGINT or self.config.workers == 1 or self.should_exit:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept who has come, answer who has asked, and end; what takes longer than the grace is cancelled."""
        logger.info("shutting down")
        state = self.server_state
        self.config.loaded_app.state.draining = True
        for connection in list(state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                if sockets is None:
                    stop_accepting([listener for server in self.servers for listener in server.sockets])
                await asyncio.sleep(HANDSHAKE)
                for _ in range(2):  # Turns of the loop, for it accepts after it has looked at the clock.
                    await asyncio.sleep(0)
                self._close(sockets)
                while (state.connections or state.tasks) and not self.force_exit:  # noqa: ASYNC110 - they are plain sets
                    await asyncio.sleep(_TICK)
        except TimeoutError:
            self._close(sockets)
            for task in state.tasks:
                task.cancel()
        if not self.force_exit:
            await self.lifespan.shutdown()

    def _close(self, sockets: list[socket.socket] | None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()


class Supervisor(multiprocess.Multiprocess):
    """The parent of several servers that share its socket.

    Args:
        config: Of each of them.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, [config.bind_socket()])
        multiprocess.Process = _Worker  # type: ignore[misc]  # uvicorn has no other way to say what it starts.

    def run(self) -> None:
        """Start the servers, keep their number, and end with them; in place of uvicorn's own, which hears later."""
        self.init_processes()
        due = time.monotonic() + _CHECK_EVERY
        while not self.should_exit.wait(_HEAR_EVERY):
            self.handle_signals()
            if time.monotonic() > due:
                self.keep_subprocess_alive()
                due = time.monotonic() + _CHECK_EVERY
        self.terminate_all()
        self.join_all()

    def terminate_all(self) -> None:
        """Turn newcomers away before anyone stops to accept, and keep nothing open that nobody accepts from."""
        stop_accepting(self.sockets)
        super().terminate_all()
        for listener in self.sockets:
            listener.close()


class _Worker(multiprocess.Process):
    """A child of the supervisor."""

    @property
    def server(self) -> Server:
        if self._server is None:
            self._server = Server(self.config)
        return self._server  # type: ignore[return-value]


def stop_accepting(listeners: Sequence[socket.socket]) -> None:
    """Let nobody begin to connect any more, where that can be had; those who have begun still may, and be accepted.

    Closing a socket resets the connections that wait to be accepted, and to accept them all first is not enough where
    others come meanwhile. On Linux they can be kept away by a filter on the socket: their attempts get no answer, and
    are repeated after a second, when the socket is closed and they are refused. The filter is on the socket and not
    on its descriptor, of which each process has its own.
    """
    if sys.platform != "linux":
        return
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _WITHOUT_SYN)
    buffer = ctypes.create_string_buffer(program, len(program))
    for listener in listeners:
        pointer = struct.pack("HP", len(_WITHOUT_SYN), ctypes.addressof(buffer))
        with suppress(OSError):  # Not every sandbox has filters.
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)
