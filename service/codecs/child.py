"""A process that reads and writes large bodies, beside the event loop.

In a thread, parsing and writing would hold Python's lock for seconds and stop the event loop. A process has a lock of
its own and a limit of memory, and it can be ended.
"""

import asyncio
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from service.errors import NotReadyError, TooLargeError
from service.threads import NICENESS, in_thread, start_thread

T = TypeVar("T")

PATIENCE = 1.0
"""Seconds from the cancelling of a call to the end of its process, if the function has not returned by then."""

IDLE = 60.0
"""Seconds after which an idle process ends."""

_PIECE = 2**18
"""Bytes of each of the pieces of what comes back in pieces."""


class LongBytes:
    """Many bytes in pieces. Functions of a `ChildProcess` get them as `bytes`; nothing copies them here."""

    def __init__(self, pieces: Sequence[bytearray]) -> None:
        self._pieces = pieces

    def __len__(self) -> int:
        return sum(map(len, self._pieces))

    def __reduce__(self) -> tuple[Callable[[list[bytes]], bytes], tuple[list[pickle.PickleBuffer]]]:
        return b"".join, (list(map(pickle.PickleBuffer, self._pieces)),)

    async def copied(self) -> bytes:
        """A copy as `bytes`, which a thread makes."""
        return await in_thread(partial(b"".join, self._pieces))


class ChildProcess:
    """Runs functions in one process, one after the other; it starts with the first of them.

    Args:
        memory: Most bytes that a function may take, beside its arguments.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._turn = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._idle: asyncio.TimerHandle | None = None

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a module's function in the process, and return or raise its outcome; bytes and arrays are not copied.

        Raises:
            NotReadyError: The process ended meanwhile, or cannot be started.
            TooLargeError: The function takes more memory than it may.
        """
        loop = asyncio.get_running_loop()
        await self._turn.acquire()
        if self._idle is not None:
            self._idle.cancel()
        outcome = start_thread(partial(self._exchange, function, arguments))

        def next_turn() -> None:
            self._idle = loop.call_later(IDLE, self.stop)
            self._turn.release()

        def ended(_: object) -> None:
            with suppress(RuntimeError):  # The loop is closed.
                loop.call_soon_threadsafe(next_turn)

        outcome.add_done_callback(ended)
        try:
            result: T = await asyncio.wrap_future(outcome)
        except asyncio.CancelledError:
            loop.call_later(PATIENCE, lambda: None if outcome.done() else self._kill())
            raise
        return result

    async def call(self, quick: bool, function: Callable[..., T], *arguments: Any) -> T:
        """Call the function, here if it is quick, or else in the process."""
        return function(*arguments) if quick else await self.run(function, *arguments)

    def stop(self) -> None:
        """End the process, even during a call; the next call starts another."""
        self._kill()
        if self._process is not None:
            self._process.wait()
        if self._socket is not None and not self._turn.locked():
            self._socket.close()
            self._process = self._socket = None

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _exchange(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        process, connection = self._process, self._socket
        if process is None or connection is None or process.poll() is not None:
            if connection is not None:
                connection.close()
            try:
                process, connection = self._process, self._socket = self._start()
            except OSError as error:  # Descriptors, processes or memory are used up.
                self._process = self._socket = None
                raise NotReadyError(f"no process can be started to read large bodies: {error.strerror}") from error
        try:
            _send(connection, (function, tuple(map(_shared, arguments))))
            succeeded, value = _receive(connection)
        except (OSError, EOFError, MemoryError) as error:  # A part of a message may be unread.
            process.kill()
            process.wait()
            if isinstance(error, MemoryError):
                raise
            raise NotReadyError("the process that reads and writes large bodies has ended; try again") from error
        if not succeeded:
            raise value
        return value

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """Start the process, without the service's keys and settings."""
        ours, theirs = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LOWERBOUND_")}
        environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "service.codecs.child", str(theirs.fileno()), str(self._memory)]
        try:
            with theirs:
                process = subprocess.Popen(  # noqa: S603 - this interpreter and module
                    command,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # Libraries tell there what is wrong with a client's picture.
                    env=environment,
                )
        except OSError:
            ours.close()
            raise
        return process, ours


def main(descriptor: int, memory: int) -> None:
    """Run the functions that the parent sends, until it closes the connection."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # They may be sent to all, before the last answer.
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # The kernel ends this process before the service if memory runs out.
        Path("/proc/self/oom_score_adj").write_text("1000")
    started = False
    with socket.socket(fileno=descriptor) as connection, suppress(EOFError, OSError):
        while True:
            function, arguments = _receive(connection)
            if not started:  # The modules of the function are loaded by now, and do not count.
                started = True
                _limit_memory(memory)
                os.nice(NICENESS)
            answer: tuple[bool, Any]
            try:
                answer = True, _shared(function(*arguments))
            except MemoryError:
                answer = False, TooLargeError(f"takes more than {memory:,} bytes of memory to read or write", "body")
            except Exception as error:
                answer = False, error
            del arguments
            _send(connection, answer)
            del answer


def in_pieces(function: Callable[..., bytes], *arguments: Any) -> list[bytes]:
    """Call the function in a `ChildProcess`, for an answer in pieces: to free many bytes at once would take long."""
    whole = memoryview(function(*arguments))
    pieces = [pickle.PickleBuffer(whole[start : start + _PIECE]) for start in range(0, len(whole), _PIECE)]
    return cast("list[bytes]", pieces)  # As which they arrive.


def _limit_memory(more: int) -> None:
    """Let the process have so many bytes more than it has now."""
    status = Path("/proc/self/status")
    if status.exists():
        (now,) = (int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmData"))
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = 1024 * now + more
        resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _shared(value: object) -> object:
    """Bytes as `pickle` sends them without a copy."""
    return pickle.PickleBuffer(value) if isinstance(value, bytes) else value


def _send(connection: socket.socket, message: object) -> None:
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append)
    parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    connection.sendall(struct.pack(f"<{1 + len(parts)}Q", len(parts), *(part.nbytes for part in parts)))
    for part in parts:
        connection.sendall(part)


def _receive(connection: socket.socket) -> Any:
    """Raises EOFError where the connection is closed."""
    (number,) = struct.unpack("<Q", _read(connection, 8))
    sizes = struct.unpack(f"<{number}Q", _read(connection, 8 * number))
    head, *buffers = [_read(connection, size) for size in sizes]
    return pickle.loads(head, buffers=buffers)  # noqa: S301 - from this program alone


def _read(connection: socket.socket, size: int) -> bytes:
    """So many bytes; in one piece, as a rule."""
    pieces: list[bytes] = []
    while size:
        pieces.append(connection.recv(size, socket.MSG_WAITALL))
        if not pieces[-1]:
            raise EOFError
        size -= len(pieces[-1])
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
