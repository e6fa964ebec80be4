"""Errors as answers: every failure leaves as RFC 9457 problem+json, or as `{"error": "..."}` under /v2, with an id."""

import asyncio
import itertools
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.schemas import Problem
from service.api.time_limit import TimeLimit
from service.codecs.oip_messages import ProtocolError
from service.errors import (
    STATUS,
    DeadlineError,
    EncodingError,
    InvalidError,
    LowerboundError,
    OverloadedError,
    RefusedError,
    RequestError,
    UnauthorizedError,
    writable,
)
from service.observability.context import CLOSED, REQUEST_CONTEXT, REQUEST_ID_KEY, RequestContext, first_values
from service.observability.logs import access, log_access
from service.observability.metrics import Labels, Telemetry

PROBLEM_MEDIA_TYPE = "application/problem+json"

_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
"""Ids that are echoed: visible ASCII, of a length that fits a log line; any other is replaced."""

_LONGEST = 2000
"""Characters of a detail or a location; libraries quote what they cannot read."""

_PROTOCOL_STATUS = {
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: HTTPStatus.NOT_IMPLEMENTED,
    HTTPStatus.UNPROCESSABLE_ENTITY: HTTPStatus.BAD_REQUEST,
}
"""The statuses that the Open Inference Protocol has others for."""

logger = logging.getLogger("service")


class RequestMiddleware:
    """ASGI middleware around every request: its id, its time limit, and an answer even to the unforeseen.

    Args:
        app: What is inside.
        timeout: Seconds after which a request is given up.
        telemetry: What counts the requests.
        labels: Under which; from the route that answers if not given.
    """

    def __init__(self, app: ASGIApp, timeout: float, telemetry: Telemetry, labels: Labels | None = None) -> None:
        self._app = app
        self._telemetry = telemetry
        self._labels = labels
        self._time_limit = TimeLimit(timeout)
        self._ids = unique_ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = first_values(scope["headers"])
        request_id = given_id(headers) or next(self._ids)
        context = RequestContext(request_id, headers, scope, receive, send)
        REQUEST_CONTEXT.set(context)
        began = self._telemetry.began()
        try:
            with self._time_limit:
                await self._app(scope, receive, context.send)
        except asyncio.CancelledError:
            refusal = scope.get("state", {}).get("refusal")
            if context.status != CLOSED or refusal is None:
                raise
            await self._failed(context, RefusedError(*refusal))(scope, receive, context.send)
        except Exception as error:
            if context.status != CLOSED:
                if isinstance(error, DeadlineError):  # The client has not taken its answer in time.
                    raise asyncio.CancelledError from error
                raise
            await self._failed(context, error)(scope, receive, context.send)
        finally:
            labels = self._labels or self._find_labels(scope)
            context.method, context.route, context.model = labels
            seconds = self._telemetry.ended(labels, context.status, began)
            if access.isEnabledFor(logging.INFO):
                log_access(context, seconds)

    def _find_labels(self, scope: Scope) -> Labels:
        """Those of a request on its way back from the router, which leaves the route's template without its prefix."""
        given = scope.get("path_params", {})
        name, version = given.get("name", ""), given.get("version", "")
        path = scope["path"] if "route" in scope else ""
        for prefix, value, parameter in (("/models/", name, "{name}"), ("/versions/", version, "{version}")):
            path = path.replace(f"{prefix}{value}", prefix + parameter, 1) if value else path
        return self._telemetry.labels(scope["method"], path, name.partition(".")[0])

    def _failed(self, context: RequestContext, error: Exception) -> JSONResponse:
        scope = context.scope
        match error:
            case LowerboundError():
                self._telemetry.rejected(_reason(type(error).__name__))
                return _render(scope, error)
            case RequestValidationError():
                self._telemetry.rejected(_reason(InvalidError.__name__))
                first = error.errors()[0]
                location = ".".join(str(part) for part in first["loc"])
                return _answer(scope, HTTPStatus.UNPROCESSABLE_ENTITY, first["msg"], location)
            case _:
                request_id = context.request_id.decode()
                logger.error("request %s failed", request_id, exc_info=error)
                detail = f"a fault of the service; see its log for {request_id}"
                return _answer(scope, HTTPStatus.INTERNAL_SERVER_ERROR, detail)


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application for requests that the connection refuses.

    Raises:
        RefusedError: With the status and the detail in `scope["state"]["refusal"]`.
    """
    raise RefusedError(*scope["state"]["refusal"])


def answer_with_problems(app: FastAPI) -> None:
    """Leave FastAPI's invalid requests to `RequestMiddleware`, and give its other errors the shape of all."""
    del app.exception_handlers[RequestValidationError]

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> JSONResponse:
        answer = _answer(request.scope, HTTPStatus(error.status_code), f"{request.method} {request.url.path}")
        answer.headers.update(error.headers or {})
        return answer


def given_id(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The request's own id, if it has one that can be echoed."""
    value = headers.get(REQUEST_ID_KEY)
    return value if value is not None and _REQUEST_ID.fullmatch(value) else None


def _reason(kind: str) -> str:
    """`too_large` for `TooLargeError`, and so on."""
    return re.sub(r"\B([A-Z])", r"_\1", kind.removesuffix("Error")).lower()


def unique_ids() -> Iterator[bytes]:
    """32 hexadecimal digits: half of them this process's, the rest a count."""
    process = os.urandom(8).hex()
    return (f"{process}{number:016x}".encode() for number in itertools.count())


def _render(scope: Scope, error: LowerboundError) -> JSONResponse:
    if isinstance(error, RefusedError):
        return _answer(scope, error.status, str(error))
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    detail, location = (error.detail, error.location) if isinstance(error, RequestError) else (str(error), None)
    answer = _answer(scope, status, detail, location)
    if isinstance(error, EncodingError):
        answer.headers["Accept-Encoding"] = ", ".join(error.known)
    if isinstance(error, UnauthorizedError):
        answer.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, OverloadedError):
        answer.headers["Retry-After"] = str(math.ceil(error.retry_after))
    return answer


def _answer(scope: Scope, status: HTTPStatus, detail: str, location: str | None = None) -> JSONResponse:
    """A failure in the shape that its path asks for: the Open Inference Protocol's under /v2, elsewhere a problem."""
    if f"{scope['path']}/".startswith("/v2/"):
        status = _PROTOCOL_STATUS.get(status, status)
        text = ProtocolError(error=writable(f"{location or status.phrase}: {detail}", _LONGEST))
        return JSONResponse(text.model_dump(), status)
    problem = Problem(
        title=status.phrase,
        status=status.value,
        detail=writable(detail, _LONGEST),
        location=location and writable(location, _LONGEST),
    )
    return JSONResponse(problem.model_dump(exclude_none=True), status, media_type=PROBLEM_MEDIA_TYPE)
