"""Request ids on Ray Serve, which echoes any that a client sends, after the application has done so already.

`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names `middleware`; it goes around what Ray puts around the application.
"""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problem_details import given_id, unique_ids
from service.observability.context import REQUEST_ID_KEY, first_values


class OneRequestId:
    """ASGI middleware: the application's rule of what an id is, and one id in the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._ids = unique_ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if given_id(first_values(scope["headers"])) is None:
            scope["headers"] = [*_without_id(scope["headers"]), (REQUEST_ID_KEY, next(self._ids))]

        async def send_with_one_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message["headers"])
                last = [header for header in given if header[0].lower() == REQUEST_ID_KEY][-1:]
                message["headers"] = [*_without_id(given), *last]
            await send(message)

        await self._app(scope, receive, send_with_one_id)


def middleware() -> list[Middleware]:
    """What Ray Serve puts around every application."""
    return [Middleware(OneRequestId)]


def _without_id(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [header for header in headers if header[0].lower() != REQUEST_ID_KEY]
