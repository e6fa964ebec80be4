"""Operations: what the endpoints that compute have in common.

FastAPI solves a handler's parameters for each request and tries one route after the other. That takes longer than a
small model. An operation's route appears in the OpenAPI page like any other, described by its handler's signature, but
calls the handler itself. The paths of the models served are known, so each is looked up in a table.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, get_type_hints
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.deadline import deadline
from service.api.openapi import answers, body, served_model
from service.errors import suggest
from service.inference import Model
from service.scoring import Query


@dataclass(frozen=True)
class Operation:
    """An endpoint that computes.

    Attributes:
        method: `GET` or `POST`.
        path: Without the prefix that names a model.
        handler: Takes the request, the model and the query.
        answer: Schema of the answer.
        body: Schema of the body, if there is one.
        media_types: Of the answer, beside JSON and .npy.
        headers: Of the answer, beside those of all answers, and what they say.
    """

    method: str
    path: str
    handler: Callable[..., Awaitable[Response]]
    answer: type[BaseModel]
    body: type[BaseModel] | None = None
    media_types: Sequence[str] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def route(self, prefix: str, dependencies: Sequence[Depends], tag: str) -> APIRoute:
        """The operation under a prefix; `dependencies` describe the prefix's path parameters."""
        return _DirectRoute(
            self,
            prefix + self.path,
            self.handler,
            methods=[self.method],
            responses=answers(self.answer, *self.media_types, headers=self.headers),
            openapi_extra=body(self.body) if self.body else None,
            dependencies=dependencies,
            tags=[tag],
        )

    def on(self, model: Model) -> ASGIApp:
        """The operation on one model."""
        parse = _parser(self.handler)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            with model.in_use():
                query = parse(scope["query_string"])
                async with deadline(query.timeout):
                    response = await self.handler(Request(scope, receive, send), model, query)
            await response(scope, receive, send)

        return app


class _DirectRoute(APIRoute):
    def __init__(self, operation: Operation, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await operation.on(served_model(Request(scope)))(scope, receive, send)

        self.app = app


@cache
def _parser(handler: Callable[..., Awaitable[Response]]) -> Callable[[bytes], Query]:
    """From a query string to the handler's parameter `query`."""
    schema: type[Query] = get_type_hints(handler)["query"]

    @lru_cache(maxsize=256)
    def parse(text: bytes) -> Query:
        try:
            return schema.model_validate(dict(parse_qsl(text.decode("latin-1"), keep_blank_values=True)))
        except ValidationError as error:
            raise RequestValidationError([_in_query(problem, schema) for problem in error.errors()]) from error

    return parse


def _in_query(problem: ErrorDetails, schema: type[Query]) -> dict[str, Any]:
    """A problem of a parameter, with its place in the request."""
    placed = {**problem, "loc": ("query", *problem["loc"])}
    if problem["type"] == "extra_forbidden":
        known = schema.model_fields
        placed["msg"] = f"is no parameter{suggest(str(problem['loc'][-1]), known)}; there are {', '.join(known)}"
    return placed
