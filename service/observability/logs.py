"""Logs: lines for people or JSON for machines, which say what request they belong to.

If the caller traces a request (W3C Trace Context, header `traceparent`), its lines have the caller's trace and span,
or the service's own span, see `tracing`.
"""

import logging
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from service.observability.context import REQUEST_CONTEXT, RequestContext

Format = Literal["text", "json"]

access = logging.getLogger("service.access")
"""Has one line for each request, if anybody wants it."""


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
    logging.captureWarnings(True)
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
        if context := REQUEST_CONTEXT.get(None):
            line |= context.describe()
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()
