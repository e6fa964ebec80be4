"""Every exception the project raises on purpose, and the one table from exception to HTTP status.

    LowerboundError
    ├── BundleError             a bundle is damaged, tampered with, or of another format
    ├── StorageError            bundles cannot be reached where they are stored
    ├── DeviceError             the device asked for cannot be used
    ├── ExtraError              an option needs packages that are not installed
    ├── KeysError               keys, of clients or of those who sign bundles, cannot be used
    ├── RefusedError            the connection refuses the request, by HTTP's rules or its limits; has the status
    ├── FileError               a file of rows cannot be read, or their scores not written
    ├── RequestError            the client's doing; may name the place in its data
    │   ├── MalformedError      400  the bytes are not what their media type says
    │   ├── UnauthorizedError   401  a request without a key of the service
    │   ├── ForbiddenError      403  a browser's request, for a name or from an origin that is not allowed
    │   ├── NotFoundError       404  no such model, version or page
    │   ├── NotAcceptableError  406  no answer in a media type the client accepts
    │   ├── TooLargeError       413  more bytes, rows or draws than the service takes
    │   ├── MediaTypeError      415  a body in a media type the endpoint does not read
    │   │   └── EncodingError   415  a body compressed in a way the endpoint does not read; says which it does
    │   └── InvalidError        422  readable, but not an instance of this model's data
    └── ServiceError            the service's doing; the same request may succeed later
        ├── OverloadedError     429  the queue is full; says when to come back
        ├── NotReadyError       503  starting, draining, or failing its golden check
        │   ├── EngineLostError 503  the engine was replaced while it computed this
        │   └── DeviceMemoryError 503 the device has no memory left for even one row
        └── DeadlineError       504  the request's time ran out

The command line prints an error as one line; `service.api` answers with its status.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from http import HTTPStatus
from typing import Self

SIMILARITY = 0.7
"""Share of their characters, by `difflib`, that a misspelt name and the one that was meant have in common."""

COMPARED = 5000
"""Most characters of names that are compared with a misspelt one, which takes some twenty milliseconds."""


class LowerboundError(Exception):
    """Base of every error raised on purpose."""


class BundleError(LowerboundError):
    """A bundle that must not be served. The message names the file or field and what differs."""


class StorageError(LowerboundError):
    """Bundles cannot be reached where they are stored, or not be kept there. It may work later."""


class DeviceError(LowerboundError):
    """The device asked for cannot be used. The message says what is missing."""


class ExtraError(LowerboundError):
    """An option needs packages that are not installed. The message names them."""


class KeysError(LowerboundError):
    """Keys that cannot be used. The message names the place, and never a key."""


class FileError(LowerboundError):
    """Rows that cannot be read from a file, or answers that cannot be written. The message names file and place."""


class RefusedError(LowerboundError):
    """A request that the connection refuses, by the rules of HTTP or its own limits. `status` is that of the answer."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = HTTPStatus(status)


class RequestError(LowerboundError):
    """A request that cannot be answered as it stands.

    `location` is the place of the first offending value, in the client's own terms, as `instances[3][17]`,
    `instances[3].age` or `query.num_draws`.
    """

    def __init__(self, detail: str, location: str | None = None) -> None:
        super().__init__(detail if location is None else f"{location}: {detail}")
        self.detail = detail
        self.location = location

    def __reduce__(self) -> tuple[type[Self], tuple[str, str | None]]:
        return type(self), (self.detail, self.location)


class MalformedError(RequestError):
    """The bytes are not what their media type says."""


class UnauthorizedError(RequestError):
    """A request without a key of the service, where that asks for one."""


class ForbiddenError(RequestError):
    """A browser's request, for a name or from an origin that is not allowed."""


class NotFoundError(RequestError):
    """No such model, version or page."""


class NotAcceptableError(RequestError):
    """No answer in a media type the client accepts."""


class TooLargeError(RequestError):
    """More bytes, rows or draws than the service takes."""


class MediaTypeError(RequestError):
    """A body in a media type the endpoint does not read."""


class EncodingError(MediaTypeError):
    """A body compressed in a way the endpoint does not read. `known` are the ways that it does."""

    def __init__(self, detail: str, location: str, known: tuple[str, ...]) -> None:
        super().__init__(f"{detail}; send {', '.join(known)}, or plain", location)
        self.known = known


class InvalidError(RequestError):
    """Readable, but not an instance of this model's data."""


class ServiceError(LowerboundError):
    """The service cannot answer now; the same request may succeed later."""


class OverloadedError(ServiceError):
    """The queue is full. `retry_after` is the time in seconds that the queued work will take."""

    def __init__(self, detail: str, retry_after: float) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class NotReadyError(ServiceError):
    """The service is starting, draining, or its engine fails the golden check."""


class EngineLostError(NotReadyError):
    """The engine was replaced while it computed this, because it hung, failed or answered wrongly."""


class DeviceMemoryError(NotReadyError):
    """The device has not the memory that one row takes, with its draws."""


class DeadlineError(ServiceError):
    """The request's time ran out before its rows were computed."""


STATUS: dict[type[LowerboundError], HTTPStatus] = {
    MalformedError: HTTPStatus.BAD_REQUEST,
    UnauthorizedError: HTTPStatus.UNAUTHORIZED,
    ForbiddenError: HTTPStatus.FORBIDDEN,
    NotFoundError: HTTPStatus.NOT_FOUND,
    NotAcceptableError: HTTPStatus.NOT_ACCEPTABLE,
    TooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    MediaTypeError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    InvalidError: HTTPStatus.UNPROCESSABLE_ENTITY,
    OverloadedError: HTTPStatus.TOO_MANY_REQUESTS,
    NotReadyError: HTTPStatus.SERVICE_UNAVAILABLE,
    DeadlineError: HTTPStatus.GATEWAY_TIMEOUT,
}


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known name that it is like; empty if there is none."""
    by_lower = {other.lower(): other for other in known}
    lower = name.lower()
    if lower in by_lower:
        near = [lower]
    else:
        near = get_close_matches(lower, by_lower, 1, SIMILARITY) if sum(map(len, by_lower)) <= COMPARED else []
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""


def writable(text: str, most: int) -> str:
    """The text of a message, cut where it repeats too much of what was sent, and with escapes for lone surrogates.

    A client's JSON strings can hold those, and UTF-8 cannot.
    """
    cut = text if len(text) <= most else f"{text[:most]} ..."
    return cut.encode(errors="backslashreplace").decode()


def printable(text: str) -> str:
    """A text from a file, for logs and terminals: without what steers a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
