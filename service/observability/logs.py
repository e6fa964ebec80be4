"""Logs: lines for people or JSON for machines, which say what request they belong to.

If the caller traces a request (W3C Trace Context, header `traceparent`), its lines have the caller's trace and span,
or the service's own span, see `tracing`.
"""

import logging
import re
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

Format = Literal["text", "json"]

access = logging.getLogger("service.access")
"""Has one line for each request, if anybody wants it."""

_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


class RequestContext:
    """The request that a line belongs to.

    Args:
        request_id: Its id.
        headers: Its headers; looked into only if there is a line.

    Attributes:
        rows: The rows of its answer, once there are any.
        method, route, model: What it asked, see `telemetry.Labels`, once it has ended.
        status: Of its answer, then.
    """

    __slots__ = ("_headers", "method", "model", "request_id", "route", "rows", "status")

    def __init__(self, request_id: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.request_id = request_id
        self._headers = headers
        self.rows: int | None = None
        self.method = self.route = self.model = ""
        self.status = 0

    def end(self, method: str, route: str, model: str, status: int) -> None:
        """Note what it was, and what became of it."""
        self.method, self.route, self.model, self.status = method, route, model, status

    def describe(self) -> dict[str, str]:
        """The ids that a line carries: `request_id`, and `trace_id` and `span_id` of the caller's, if it has any."""
        ids = {"request_id": self.request_id.decode()}
        given = [value for name, value in self._headers if name == b"traceparent"]
        if len(given) == 1 and (found := _TRACEPARENT.fullmatch(given[0])) and not (found[1] == b"00" and found[4]):
            ids |= {"trace_id": found[2].decode(), "span_id": found[3].decode()}
        return ids


REQUEST_CONTEXT: ContextVar[RequestContext | None] = ContextVar("origin", default=None)
"""The request being answered."""


def count_rows(rows: int) -> None:
    """Note how many rows the answer to the present request has."""
    if context := REQUEST_CONTEXT.get():
        context.rows = rows


def log_access(context: RequestContext, seconds: float) -> None:
    """One line for a request that has ended."""
    fields = {name: getattr(context, name) for name in ("method", "route", "model", "status", "rows")}
    fields["duration_seconds"] = round(seconds, 6)
    access.info(
        "%s",
        " ".join(f"{name}={value}" for name, value in fields.items() if value is not None),
        extra={"fields": fields},
    )


def configure(level: str, style: Format, *, every_request: bool) -> None:
    """Log what is at least of this level to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _Json() if style == "json" else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])
    access.setLevel(logging.INFO if every_request else logging.WARNING)


class _Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if context := REQUEST_CONTEXT.get():
            line |= context.describe()
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()
