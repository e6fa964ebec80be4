"""Cycles: one request and its answer, as an ASGI application sees them.

The answer's head is held back until there is some of its body, and both are written at once.

This module must not know how requests are read from the wire.
"""

import asyncio
import json
import logging
from http import HTTPStatus
from typing import Protocol

from fastapi import FastAPI
from starlette.types import Message, Scope
from uvicorn.server import ServerState

HIGH_WATER = 256 * 2**10
"""Bytes of a body that are held for an application that does not read it."""

_BODILESS = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}

logger = logging.getLogger("service")


class ConnectionProtocol(Protocol):
    """The connection that a cycle is part of. `writable` is set unless the client does not take what is sent."""

    app: FastAPI
    loop: asyncio.AbstractEventLoop
    server: ServerState
    transport: asyncio.Transport
    writable: asyncio.Event

    def resume(self) -> None:
        """Read on, if reading was paused."""

    def is_last(self) -> bool:
        """Whether the connection is to be closed after the answer that begins now."""

    def answered(self, cycle: "RequestResponseCycle") -> None:
        """The cycle has come to its end."""


class RequestResponseCycle:
    """A request and its answer, as an ASGI application sees them."""

    def __init__(
        self, connection: ConnectionProtocol, scope: Scope, *, keep_alive: bool, expects_continue: bool
    ) -> None:
        self.keep_alive = keep_alive
        self.begun = False  # The answer.
        self._connection = connection
        self._scope = scope
        self._expects_continue = expects_continue
        self._task: asyncio.Task[None] | None = None
        self._chunks: list[bytes] = []
        self._held = 0  # Bytes in the chunks.
        self._complete = self._read = False  # The body: has arrived, has been handed on.
        self._arrival: asyncio.Future[None] | None = None  # Of what the application waits for.
        self._start: Message = {}
        self._missing: int | None = None  # Bytes of the answer, where its length is known.
        self._answered = False

    def start(self) -> None:
        """Let the application answer."""
        self._task = self._connection.loop.create_task(self._run())
        self._connection.server.tasks.add(self._task)

    def cancel(self) -> None:
        """There is nobody to be answered."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        connection = self._connection
        try:
            await connection.app(self._scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self.begun and not connection.transport.is_closing():
                connection.transport.write(problem(503, "the service is shutting down"))
        except Exception:
            logger.exception("the answer to %s %s failed", self._scope["method"], self._scope["path"])
        finally:
            connection.server.tasks.discard(self._task)
            self._task = None  # Which refers to this cycle.
            if not self._answered:
                connection.transport.close()

    def take(self, body: bytes) -> int:
        """More of the body has arrived; returns how much the application has still to read."""
        if self.begun:
            return 0  # What comes now makes no difference.
        self._chunks.append(body)
        self._held += len(body)
        if self._held > HIGH_WATER:
            self._wake()
        return self._held

    def complete(self) -> None:
        """All of the body has arrived."""
        self._complete = True
        self._wake()

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def receive(self) -> Message:
        """The body, in one piece if it is not large; after its end nothing comes any more."""
        if self._read:
            await self._connection.loop.create_future()
        if self._expects_continue:
            self._expects_continue = False
            self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self._complete and self._held <= HIGH_WATER:
            self._connection.resume()
            self._arrival = self._connection.loop.create_future()
            await self._arrival
        body = b"".join(self._chunks)
        self._chunks.clear()
        self._held = 0
        self._read = self._complete
        return {"type": "http.request", "body": body, "more_body": not self._read}

    async def send(self, message: Message) -> None:
        """The answer; its head goes out with the beginning of its body."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        if not self._connection.writable.is_set():
            await self._connection.writable.wait()
        body, last = message.get("body", b""), not message.get("more_body", False)
        pieces = [body] if self._scope["method"] != "HEAD" else []
        if not self.begun:
            self.begun = True
            pieces.insert(0, self._head())
        if self._missing is not None:
            self._missing -= len(body)
            if self._missing < 0 or (last and self._missing):
                raise RuntimeError("the answer is not as long as its Content-Length says")
        self._connection.transport.writelines(pieces)
        if last:
            self._answered = True
            self._connection.answered(self)

    def _head(self) -> bytes:
        status = self._start["status"]
        lines = [_STATUS_LINES[status]]
        for name, value in (*self._connection.server.default_headers, *self._start["headers"]):
            lines += name, b": ", value, b"\r\n"
            if name == b"content-length":
                self._missing = int(value)
        if self._missing is None and status not in _BODILESS:
            self.keep_alive = False  # So that the body has an end.
        if self._scope["method"] == "HEAD":
            self._missing = None
        # A client not told to continue need not send its body.
        if self._expects_continue or not self.keep_alive or self._connection.is_last():
            self.keep_alive = False
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)


def problem(status: int, detail: str) -> bytes:
    """A whole answer to what no application sees."""
    phrase = HTTPStatus(status).phrase
    body = json.dumps({"type": "about:blank", "title": phrase, "status": status, "detail": detail}).encode()
    head = f"content-type: application/problem+json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return _STATUS_LINES[status] + head.encode() + body
