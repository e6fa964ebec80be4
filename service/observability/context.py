"""The request that is being answered: its id and trace, and what becomes of it."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

Header = tuple[bytes, bytes]
Content = bytes | list[bytes]
"""The body of an answer, whole or in pieces."""
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

REQUEST_ID_HEADER = "X-Request-ID"
REQUEST_ID_KEY = REQUEST_ID_HEADER.lower().encode()

CLOSED = 499
"""The status under which requests are counted whose clients left: they get no answer. nginx's convention."""

_ACCEPT = b"accept"

_PIECE = 2**18
"""Bytes of an answer that are sent at once."""

_RATE = 2**27
"""Bytes of an answer a second, however fast the client reads, so that the event loop serves others meanwhile."""

_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


def first_values(headers: Sequence[Header]) -> dict[bytes, bytes]:
    """The first value of each header, and all of `Accept`: its lines are one list (RFC 9110, section 5.3)."""
    values = dict(reversed(headers))
    if len(values) < len(headers) and _ACCEPT in values:
        values[_ACCEPT] = b",".join(value for name, value in headers if name == _ACCEPT)
    return values


@dataclass(slots=True, eq=False)
class RequestContext:
    """A request on its way.

    Attributes:
        request_id: Its id.
        headers: See `first_values`.
        scope, receive, asgi_send: ASGI's.
        rows: The rows of its answer, once there are any.
        method, route, model: What it asked, see `metrics.Labels`, once it has ended.
        status: Of its answer, once that has begun.
        taken: Bytes of a large answer that the connection has taken.
    """

    request_id: bytes
    headers: Mapping[bytes, bytes]
    scope: Any
    receive: Receive
    asgi_send: Send
    rows: int | None = None
    method: str = ""
    route: str = ""
    model: str = ""
    status: int = CLOSED
    taken: int = 0

    def header(self, name: bytes, absent: str = "") -> str:
        """A header's value; see `first_values`."""
        value = self.headers.get(name)
        return absent if value is None else str(value, "latin-1")

    async def answer(self, content: Content, headers: Iterable[Header]) -> None:
        """Answer with status 200; a large answer piece by piece, as the client takes it."""
        size = len(content) if isinstance(content, bytes) else sum(map(len, content))
        self.status = 200
        fields = [*headers, (b"content-length", b"%d" % size), (REQUEST_ID_KEY, self.request_id)]
        await self.asgi_send({"type": "http.response.start", "status": 200, "headers": fields})
        if size > _PIECE or isinstance(content, list):
            content = await self._send_most(content)
        await self.asgi_send({"type": "http.response.body", "body": content})

    async def _send_most(self, content: Content) -> bytes:
        """Send all of the content but its last piece, which is returned."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        pieces = _cut(content)
        piece = next(pieces)
        for following in pieces:
            await self.asgi_send({"type": "http.response.body", "body": piece, "more_body": True})
            self.taken += len(piece)
            piece = following
            await asyncio.sleep(began + self.taken / _RATE - loop.time())
        return piece

    async def send(self, message: Any) -> None:
        """Send a message: a head with the request's id in it, or a body, a large one piece by piece."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], (REQUEST_ID_KEY, self.request_id)]
        elif len(message.get("body", b"")) > _PIECE:
            message["body"] = await self._send_most(message["body"])
        await self.asgi_send(message)

    def describe(self) -> dict[str, str]:
        """The ids that a line carries: `request_id`, and `trace_id` and `span_id` of the caller's, if it has any."""
        ids = {"request_id": self.request_id.decode()}
        given = [value for name, value in self.scope["headers"] if name == b"traceparent"]
        if len(given) == 1 and (found := _TRACEPARENT.fullmatch(given[0])) and not (found[1] == b"00" and found[4]):
            ids |= {"trace_id": found[2].decode(), "span_id": found[3].decode()}
        return ids


def _cut(content: Content) -> Iterator[bytes]:
    """The pieces of the content; each one is forgotten where they are given."""
    if isinstance(content, bytes):
        yield from (content[start : start + _PIECE] for start in range(0, len(content), _PIECE))
    else:
        content.reverse()
        while content:
            yield content.pop()


REQUEST_CONTEXT: ContextVar[RequestContext] = ContextVar("request")
"""The request being answered. Each has a task, and so a context, of its own."""


async def present_request() -> RequestContext:
    """The request being answered, for handlers."""
    return REQUEST_CONTEXT.get()
