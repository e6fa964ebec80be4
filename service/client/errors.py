"""Errors of the client: one class for each kind that a caller treats differently."""

import json
import re

import httpx

_ROW = re.compile(r"\b(instances|latents)\[(\d{1,18})\]")


class LowerboundError(Exception):
    """A request failed.

    Attributes:
        detail: What is wrong, as the service says it.
        location: The place of the first offending value, as `instances[3].age`. Rows count from the caller's first.
        status: The HTTP status, or None where no answer came.
        request_id: The id under which the service's log has the request.
    """

    def __init__(
        self, detail: str, location: str | None = None, status: int | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(f"{location}: {detail}" if location else detail)
        self.detail = detail
        self.location = location
        self.status = status
        self.request_id = request_id


class InvalidError(LowerboundError):
    """The rows or the parameters are wrong."""


class TooLargeError(InvalidError):
    """One row asks for more than the service computes in a request."""


class UnauthorizedError(LowerboundError):
    """The key is missing or wrong."""


class NotFoundError(LowerboundError):
    """The service has no such model, version or path."""


class OverloadedError(LowerboundError):
    """The service had no room for as long as the client was willing to wait."""


class DeadlineError(LowerboundError):
    """The service or the client gave up after its time limit."""


class UnreachableError(LowerboundError):
    """No connection to the service could be made, or it broke twice."""


class ServiceError(LowerboundError):
    """A fault of the service."""


_KINDS: dict[int, type[LowerboundError]] = {
    400: InvalidError,
    401: UnauthorizedError,
    403: UnauthorizedError,
    404: NotFoundError,
    406: InvalidError,
    408: DeadlineError,
    413: TooLargeError,
    415: InvalidError,
    422: InvalidError,
    429: OverloadedError,
    503: OverloadedError,
    504: DeadlineError,
}


def error_of(response: httpx.Response, first_row: int) -> LowerboundError:
    """The error that an answer stands for; rows are counted from this number of the request's first row."""
    try:
        problem = json.loads(response.content)
        detail, location = str(problem["detail"]), str(problem.get("location") or "")
    except (ValueError, KeyError, TypeError, RecursionError):  # A proxy's page, say.
        detail, location = response.text[:500] or response.reason_phrase, None
    kind = _KINDS.get(response.status_code, ServiceError)
    place = renumber(location, first_row) if location else None
    return kind(detail, place, response.status_code, response.headers.get("X-Request-ID"))


def renumber(text: str, first_row: int) -> str:
    """The text, its row numbers counted from the caller's first row instead of the request's."""
    return _ROW.sub(lambda match: f"{match[1]}[{int(match[2]) + first_row}]", text)
