"""Connections: HTTP/1.1 between a socket and the application, and no patience without end.

In place of uvicorn's own protocol, which waits for ever for whoever sends nothing or sends slowly, and computes for
those who have left. Here a request ends with its connection, and a client that is waited for too long is answered 408.

This module must not know about models or what requests mean.
"""

import asyncio
import fcntl
import math
import termios
from collections import deque
from typing import Any, cast
from urllib.parse import unquote

import httptools
from fastapi import FastAPI
from uvicorn.config import Config
from uvicorn.server import ServerState

from service.server.cycle import HIGH_WATER, RequestResponseCycle, problem

MAX_HEADERS = 100

MAX_FRAME = 64 * 2**10
"""Most bytes of a request that are not its body: the head, and what stands between chunks, where a byte is free for
each byte of the body."""

MIN_RATE = 2**10
"""Bytes that buy a slow client another second."""

_CHECK_EVERY = 1.0
"""Seconds between two looks of a connection at its clock."""

_FAREWELL = 1.0
"""Seconds that a client may take for its next request after the last answer, where the service is shutting down."""


class _RefusedError(Exception):
    """A request that is not read to its end. Arguments: the status of the answer, and what it says."""


class Connection(asyncio.Protocol):
    """One client's connection, made as uvicorn makes its own protocols; `app.state.settings` say how patient it is.

    Requests may come before the last one is answered; they are answered one after the other, in order.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.app: FastAPI = config.loaded_app
        self.server = server_state
        self.loop = _loop or asyncio.get_running_loop()
        self.writable = asyncio.Event()  # Not set while the client does not take what is sent.
        self.writable.set()
        self._settings = self.app.state.settings
        self._idle_timeout = config.timeout_keep_alive
        self._parser = httptools.HttpRequestParser(self)
        self._unanswered: deque[RequestResponseCycle] = deque()  # The first is being answered.
        self._reading: RequestResponseCycle | None = None  # The one whose body is not complete.
        self._begun = self._paused = self._ended = False  # A request; to read; for good.
        self._upgrading = False  # The request asks for another protocol, and is about to be read again.
        self._leaving = False  # As soon as nothing is under way.
        self._received = self._body = 0  # Bytes of the request that is not complete, and of its body.
        self._unsent = self._stalled = 0  # Bytes, at the last look; looks at which they were not fewer.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._client = transport.get_extra_info("peername")
        self._address = transport.get_extra_info("sockname")
        self._surplus = len(self.server.connections) >= self._settings.max_connections
        self.server.connections.add(self)  # type: ignore[arg-type]
        self._idle_since = self.loop.time()
        self._due = self._idle_since + self._settings.read_timeout
        self._clock = self.loop.call_later(_CHECK_EVERY, self._check)
        if self.app.state.draining:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        self._clock.cancel()
        for cycle in self._unanswered:
            cycle.cancel()

    def shutdown(self) -> None:
        """Close, once what has been asked is answered, and whoever has just been answered has had time to ask more."""
        self._leaving = True
        self._leave_when_idle()

    def _leave_when_idle(self) -> None:
        wait = self._idle_since + _FAREWELL - self.loop.time()
        if self._unanswered or self._begun or self._ended:
            return  # The answer will say that it is the last one.
        if wait > 0:
            self.loop.call_later(wait, self._leave_when_idle)
        elif not self.transport.is_closing() and not _has_data(self.transport):
            self.transport.close()

    def is_last(self) -> bool:
        """Whether the connection is to be closed after the answer that begins now."""
        more = len(self._unanswered) > 1 or (self._begun and self._reading is None)  # The head of another request.
        return self._leaving and not more

    # Reading: the transport's data, and what the parser finds in them.

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        self._received += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserUpgrade:  # CONNECT.
            self._end()
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(*cause.args if isinstance(cause, _RefusedError) else (400, str(error)))
        else:
            if self._received > MAX_FRAME + 2 * self._body:
                self._refuse(431, f"more than {MAX_FRAME:,} bytes that are not its body")

    def _feed(self, data: bytes) -> None:
        """Parse the data. A request to change the protocol is ignored, as RFC 9110, section 7.8, allows."""
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if not self._upgrading:
                    raise
                # The parser would take the body for another protocol, so another one reads the request from its head.
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self._upgrading = False
                self._parser = httptools.HttpRequestParser(self)
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        """The head of the request that asks for another protocol, as one that does not."""
        fields = [b"%b: %b\r\n" % field for field in self._headers if field[0] != b"upgrade"]
        version = self._parser.get_http_version().encode()
        return b"%b %b HTTP/%b\r\n%b\r\n" % (self._parser.get_method(), self._url, version, b"".join(fields))

    def on_message_begin(self) -> None:
        self._begun = True
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._continue = False
        if not self._paused:
            self._due = self.loop.time() + self._settings.read_timeout

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading is not None:
            return  # A trailer; what it says would come too late.
        if len(self._headers) == MAX_HEADERS:
            raise _RefusedError(431, f"more than {MAX_HEADERS} header fields")
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._surplus:
            raise _RefusedError(503, f"{self._settings.max_connections} connections are open, and no more are served")
        if self._parser.should_upgrade() and self._parser.get_method() != b"CONNECT":
            self._upgrading = True
            return
        path, _, query = self._url.partition(b"?")
        if not path.startswith(b"/"):
            url = httptools.parse_url(self._url)
            path, query = url.path or b"/", url.query or b""
        version = self._parser.get_http_version()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "method": self._parser.get_method().decode(),
            "scheme": "http",
            "path": unquote(path.decode("ascii")) if b"%" in path else path.decode("ascii"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "client": self._client,
            "server": self._address,
        }
        keep_alive = version != "1.0" and self._parser.should_keep_alive()
        self._reading = cycle = RequestResponseCycle(
            self, scope, keep_alive=keep_alive, expects_continue=self._continue
        )
        self._unanswered.append(cycle)
        if len(self._unanswered) == 1:
            cycle.start()
        else:
            self._pause()

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        if self._reading is not None and self._reading.take(body) > HIGH_WATER:
            self._pause()

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        self._begun = False
        self._received = self._body = 0
        self._due = math.inf
        if self._reading is not None:
            self._reading.complete()
            self._reading = None
        if len(self._unanswered) <= 1:
            self.resume()  # To hear of it when the client leaves.

    def _pause(self) -> None:
        self._paused = True
        self._due = math.inf
        self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
            if self._begun:
                self._due = self.loop.time() + self._settings.read_timeout

    # Writing.

    def answered(self, cycle: RequestResponseCycle) -> None:
        """The first of the requests has its whole answer: go on with the next one, or wait for it."""
        self._unanswered.popleft()
        if not cycle.keep_alive:
            if self._leaving:  # Of what the client did not know, it may have sent more.
                self._unanswered.clear()
                self.resume()
                self._linger()
            else:
                self.transport.close()
            return
        if self._unanswered:
            self._unanswered[0].start()
        else:
            self._idle_since = self.loop.time()
            self._due = min(self._due, self._idle_since + self._idle_timeout)
            if self._leaving:
                self._leave_when_idle()
        if len(self._unanswered) <= 1:
            self.resume()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    # Giving up.

    def _check(self) -> None:
        """Leave a client that takes nothing of its answer, or keeps the service waiting."""
        self._clock = self.loop.call_later(_CHECK_EVERY, self._check)
        unsent = self.transport.get_write_buffer_size()
        self._stalled = self._stalled + 1 if 0 < self._unsent <= unsent else 0
        self._unsent = unsent
        if self._stalled * _CHECK_EVERY > self._settings.read_timeout:
            self.transport.abort()
        elif self.transport.is_closing() or self.loop.time() < self._due + self._received / MIN_RATE:
            pass
        elif self._begun and not self._ended:
            self._refuse(408, "not received in time")
        else:
            self.transport.close()

    def _refuse(self, status: int, detail: str) -> None:
        """Read no more, and say why, unless an answer is on its way."""
        cycle, self._reading = self._reading, None
        if cycle is not None and cycle in self._unanswered:
            self._unanswered.remove(cycle)
            cycle.cancel()
        if not self._unanswered and (cycle is None or not cycle.begun):
            self.transport.write(problem(status, detail))
        self._end()

    def _end(self) -> None:
        """Read no more, and close once what has been asked before is answered."""
        if self._unanswered:
            self._ended = True
            self._received = 0
            self._unanswered[-1].keep_alive = False
            self._due = math.inf
        else:
            self._linger()

    def _linger(self) -> None:
        """Say no more; closed at once, with data not read, the connection would be reset, and the last answer lost."""
        self._ended = True
        self._received = 0
        self.transport.write_eof()
        self._due = self.loop.time() + _CHECK_EVERY


def _has_data(transport: asyncio.Transport) -> bool:
    """Whether something has arrived that has not been read yet."""
    size = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4))
    return any(size)
