"""A connection's transport as uvicorn's requests see it."""

import asyncio
from collections.abc import Callable
from weakref import WeakMethod

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class AnswerTransport:
    """Writes answers.

    The head of an answer waits for the first of its body, so that both are one packet: a second one
    costs the kernel as much as the first. After the last answer `close` is called instead of the transport's own.
    """

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.is_closing = transport.is_closing
        self._write = transport.writelines
        self._close = WeakMethod(close)  # A circle would keep a closed connection until a collection of garbage.
        self._head: bytes | None = None
        self._begun = False

    def write(self, data: bytes) -> None:
        if data == _CONTINUE:
            self._write((data,))
        elif not self._begun:
            self._begun = True
            self._head = data
        elif self._head is not None:
            head, self._head = self._head, None
            self._write((head, data))
        else:
            self._write((data,))

    def end(self) -> None:
        """Write the head of an answer without a body, and expect the next answer."""
        if self._head is not None and not self.is_closing():
            self._write((self._head,))
        self._head = None
        self._begun = False

    def close(self) -> None:
        self.end()
        if (close := self._close()) is not None:
            close()
