"""Connections: uvicorn's HTTP/1.1 protocol with limits of time, size and number, and as strict as RFC 9112."""

import asyncio
import math
import re
from functools import partial
from typing import Any

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.server.crowd import IDLE, Crowd
from service.server.head import RefusedError, check_head, check_repeated, refusal
from service.server.transport import AnswerTransport

MAX_HEADERS = 100
MAX_PIPELINED = 100
"""Requests of a connection that may wait for the answers to earlier ones; each takes some kilobytes."""

MAX_FRAME = 64 * 2**10
"""Most bytes of a request beside its body: its head, and the lines around chunks, where each byte of the body allows
one more."""

MIN_RATE = 2**10
"""Bytes for which a slow client gets another second, though never more than it has at first."""

LINGER = 1.0
"""Seconds for a client to read the last answer, to send more before that, or to wait after closing its own side."""

_AUTHORITY = re.compile(rb"[^/]*//([^/?#]*)")


class Connection(HttpToolsProtocol):
    """One client's connection.

    The application's state has `settings`, with the limits, and `refuse`, an ASGI application. Where the connection
    refuses a request, `scope["state"]["refusal"]` has the status and the detail that `refuse` answers with. A request
    that is being answered is cancelled instead, and may answer so by itself.
    """

    def __init__(
        self,
        config: Config,
        server_state: Crowd,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.access_log = False  # The application has its own.
        self._crowd = server_state
        self._settings = config.loaded_app.state.settings
        self._most = min(self._settings.max_connections, server_state.places)
        self._answer_refusal: ASGIApp = config.loaded_app.state.refuse
        self._task: asyncio.Task[None] | None = None
        self._begun = False  # The task has run.
        self._running: RequestResponseCycle | None = None  # The cycle that is being answered.
        self._in_head = self._in_body = False  # The next byte belongs to a request's head or body.
        self._deaf = False  # Nothing more is read.
        self._closed = False  # Nothing more is written.
        self._half_closed = False  # The client has closed its side.
        self._leaving = False  # The server shuts down.
        self._upgrading = False  # The request asks for another protocol, and is parsed again without that.
        self._surplus = False  # There are too many connections, and none can be closed for this one.
        self._received = self._head = self._body = 0  # Bytes of the incomplete request; of its head; of its body.
        self._unsent, self._moved = 0, self.loop.time()  # Bytes in the write buffer; when they last became fewer.
        self.deadline: float = self._moved + self._settings.read_timeout

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._answers = AnswerTransport(transport, self._close)
        if len(self.connections) > self._most:
            self._surplus = not self._crowd.make_room(self)
        if self.config.loaded_app.state.draining:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._running is not None and self._task is not None:
            self._running.disconnected = True
            self._task.cancel()
            if not self._begun:
                self.tasks.discard(self._task)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer a client that has closed its own side, if the answer comes soon: most such clients have left."""
        self._half_closed = True
        if self._running is None or self._in_body or self._closed:
            return False
        self.cycle.keep_alive = False
        self.deadline = self.loop.time() + LINGER
        return True

    # Reading.

    def data_received(self, data: bytes) -> None:
        if self._closed:  # Most clients send all before they read.
            self.deadline = min(self.loop.time() + LINGER, self._last)
        if self._deaf:
            self._read_slowly(len(data))
            return
        if self._in_head or self._in_body:
            latest = self.loop.time() + self._settings.read_timeout
            self.deadline = min(self.deadline + len(data) / MIN_RATE, latest)
        self._received += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self._refuse(*refusal(error))
        else:
            if self._received > MAX_FRAME + 2 * self._body:
                self._refuse(431, f"more than {MAX_FRAME:,} bytes beside the body")
            elif self._in_body and self.cycle.response_complete:
                self._read_slowly(len(data))

    def _read_slowly(self, size: int) -> None:
        """Let the others go on before more is read of what no request wants; a socket may have megabytes of it."""
        if not self.transport.is_closing():
            self.transport.pause_reading()
            self.loop.call_at(self._crowd.next_read(self.loop.time(), size), self._read_on)

    def _read_on(self) -> None:
        if not self.transport.is_closing() and not self.flow.read_paused:
            self.transport.resume_reading()

    def _feed(self, data: bytes) -> None:
        """Parse the data. A request for another protocol is ignored, as RFC 9110, section 7.8, allows."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # The parser would skip the body, so another parser reads the request again from its head.
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self._upgrading = False
                self.parser = httptools.HttpRequestParser(self)
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        fields = [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        version = self.parser.get_http_version().encode()
        return b"%b %b HTTP/%b\r\n%b\r\n" % (self.parser.get_method(), self.url, version, b"".join(fields))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head = 0
        self.deadline = self.loop.time() + self._settings.read_timeout

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._head += len(url)
        if self._head > MAX_FRAME:
            raise RefusedError(414, f"more than {MAX_FRAME:,} bytes of target")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value)
        headers = self.headers
        if self._head > MAX_FRAME or len(headers) == MAX_HEADERS:
            raise RefusedError(431, f"more than {MAX_HEADERS} header fields, or {MAX_FRAME:,} bytes of them")
        headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._check_head()
        if self.parser.should_upgrade():
            self._upgrading = True
            return
        self._begin_cycle()
        self.headers = []  # For trailers: the application does not see them.
        self._in_head, self._in_body = False, True

    def _begin_cycle(self) -> None:
        """Start the application, or queue the request behind another one."""
        if not self.url.startswith(b"/"):
            target = httptools.parse_url(self.url)
            if absolute := _AUTHORITY.match(self.url):  # It takes the place of `Host`: RFC 9112, section 3.2.2.
                self.headers[:] = [(b"host", absolute[1]), *(field for field in self.headers if field[0] != b"host")]
            self.url = (target.path or b"/") + (b"?" + target.query if target.query else b"")
        super().on_headers_complete()
        self.cycle.transport = self._answers  # type: ignore[assignment]  # uvicorn needs no more of a transport.
        if self._leaving:
            self.cycle.keep_alive = False

    def _check_head(self) -> None:
        """Refuse what RFC 9112 forbids and the parser lets through, and what there is no room for.

        Raises:
            RefusedError: With the status that the RFC names.
        """
        if self._surplus:
            raise RefusedError(503, f"{self._most} connections are open, and no more are served")
        if len(self.pipeline) == MAX_PIPELINED:
            raise RefusedError(429, f"{MAX_PIPELINED} requests of this connection wait for their answers")
        version, fields = self.parser.get_http_version(), dict(self.headers)
        check_head(version, self.parser.get_method(), fields)
        if len(fields) < len(self.headers):
            check_repeated(self.headers)
        if (expected := fields.get(b"expect")) is not None:
            self.expect_100_continue = expected.lower() == b"100-continue" and version != "1.0"

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        super().on_message_complete()
        self._in_body = False
        self._received = self._body = 0
        self.deadline = self._idle_until() if self.cycle.response_complete else math.inf

    # Answering.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        self._begun = False
        self._task = self.loop.create_task(cycle.run_asgi(partial(self._run, cycle, app)))
        self.tasks.add(self._task)

    async def _run(self, cycle: RequestResponseCycle, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        task, self._begun = self._task, True
        if "refusal" in scope["state"]:
            app = self._answer_refusal
        try:
            await app(scope, receive, _sending_last(cycle, send) if cycle.waiting_for_100_continue else send)
        except asyncio.CancelledError:
            if not cycle.disconnected and not cycle.response_started:
                cycle.keep_alive = False
                scope["state"].setdefault("refusal", (503, "the service is shutting down"))
                await self._answer_refusal(scope, receive, send)
            elif not cycle.disconnected:
                cycle.disconnected = True
                self.transport.close()
        finally:
            self.tasks.discard(task)  # A callback of the task would take another turn of the loop.

    def on_response_complete(self) -> None:
        if self._running is not None:
            self._running.body = bytearray()  # What came of a body and was not read.
        self._running = None
        self._answers.end()
        if self._closed or self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._in_body:
            self.deadline = self.loop.time() + LINGER  # The rest of a body that was not read.
            self._received = 0
        elif not self._in_head:
            self.deadline = self._idle_until()

    def _idle_until(self) -> float:
        return self.loop.time() + (LINGER if self._leaving else self.timeout_keep_alive)

    # Closing.

    def check(self, now: float) -> None:
        """Close or refuse a client that keeps the service waiting. The server calls this once a second."""
        kept = self.cycle is not None and self._running is None and not (self._deaf or self._leaving)  # If it is idle.
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent < self._unsent:
            self._moved = now
        self._unsent = unsent
        if now > self._moved + self._settings.read_timeout:
            self.transport.abort()
        elif self.flow.read_paused and self.deadline < math.inf:
            self.deadline = now + self._settings.read_timeout
        elif now < self.deadline:
            pass
        elif (self._in_head or self._in_body) and not self._deaf:
            self._refuse(408, "not received in time")
        elif not kept or now >= self.deadline + IDLE:
            self.transport.close()

    def shutdown(self) -> None:
        """Answer what has been asked, the last request with `Connection: close`; close when the client asks no more."""
        if self._leaving:  # It was made after the port began to close.
            return
        self._leaving = True
        if self._running is None and not (self._in_head or self._in_body):
            idle_since = self.deadline - self.timeout_keep_alive
            self.deadline = idle_since + LINGER
            self.check(self.loop.time())
        elif self.cycle is not None and not self._in_head:
            self.cycle.keep_alive = False

    def _refuse(self, status: int, detail: str) -> None:
        """Answer the incomplete request with an error, read no more, and close."""
        self._deaf, self.deadline = True, math.inf
        refusal = status, detail
        if not self._in_body:
            self._queue_refusal(refusal)
        elif self.cycle.response_complete:
            self._close()
        elif self.cycle is not self._running:  # Earlier requests are being answered.
            self.pipeline.popleft()
            self._queue_refusal(refusal)
        else:
            self.cycle.keep_alive = False
            if not self.cycle.response_started and self._task is not None:
                self.cycle.scope["state"]["refusal"] = refusal
                if self._begun:  # A task that has not run would not see that it is cancelled.
                    self._task.cancel()
        self._in_head = self._in_body = False

    def _queue_refusal(self, refusal: tuple[int, str]) -> None:
        """Refuse a request in its turn. Of its head a part may be missing."""
        if self.scope is None or not (self._in_head or self._in_body):
            super().on_message_begin()
        try:
            self._begin_cycle()
        except (httptools.HttpParserError, UnicodeDecodeError):
            self.url = b"/"
            self._begin_cycle()
        self.cycle.scope["state"]["refusal"] = refusal
        self.cycle.keep_alive = self.cycle.more_body = False

    def drop(self) -> None:
        """Close at once, for another client."""
        self._deaf, self.deadline = True, math.inf
        self.transport.abort()

    def _close(self) -> None:
        """Write no more, and close when the client has read the answer: RFC 9112, section 9.6, against resets."""
        self._deaf = self._closed = True
        self.pipeline.clear()
        self._received = 0
        self.deadline = self.loop.time() + LINGER
        self._last = self.deadline if self._leaving else self.deadline + self._settings.read_timeout
        if self._half_closed:
            self.transport.close()
        elif not self.transport.is_closing():
            self.flow.resume_reading()
            self.transport.write_eof()


def _sending_last(cycle: RequestResponseCycle, send: Send) -> Send:
    """Close after the answer where the client still waits to be told to continue, and so need not send its body."""

    async def send_last(message: Message) -> None:
        if cycle.waiting_for_100_continue:
            cycle.keep_alive = False
        await send(message)

    return send_last
