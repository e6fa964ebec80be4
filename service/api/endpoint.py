"""Operations: what the endpoints that compute have in common.

FastAPI solves a handler's parameters for each request and tries one route after the other. That takes longer than a
small model. An operation's route appears in the OpenAPI page like any other, described by its handler's signature, but
calls the handler itself. The paths of the models served are known, so each is looked up in a table.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Annotated, Any, get_type_hints
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends as Dependency
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.openapi import answers, body, served_model
from service.api.time_limit import in_time
from service.errors import InvalidError, suggest
from service.inference import Model
from service.observability.context import REQUEST_CONTEXT, Content, Header, RequestContext, present_request
from service.scoring import Query

Answer = tuple[Content, Iterable[Header]]
"""The body of an answer and its headers, beside its length and the request's id."""

Handler = Callable[..., Awaitable[Answer]]

MAX_PARAMETERS = 100
"""A query with more parameters is refused: the service compares each unknown one with all that it knows."""

PresentRequest = Annotated[RequestContext, Depends(present_request)]


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
    handler: Handler
    answer: type[BaseModel]
    body: type[BaseModel] | None = None
    media_types: Sequence[str] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def route(self, prefix: str, dependencies: Sequence[Dependency], tag: str) -> APIRoute:
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
        parse = _parser(self.handler, self.answer)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            request = REQUEST_CONTEXT.get()
            with model.in_use:
                query = parse(scope["query_string"])
                answer = self.handler(request, model, query)
                content, headers = await (answer if query.timeout is None else in_time(query.timeout, answer))
            await request.answer(content, headers)

        return app


class _DirectRoute(APIRoute):
    def __init__(self, operation: Operation, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, response_model=None, **options)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await operation.on(served_model(Request(scope)))(scope, receive, send)

        self.app = app


@cache
def _parser(handler: Handler, answer: type[BaseModel]) -> Callable[[bytes], Query]:
    """From a query string to the handler's parameter `query`, which names columns of the answer only."""
    schema: type[Query] = get_type_hints(handler)["query"]

    @lru_cache(maxsize=256)
    def parse(text: bytes) -> Query:
        try:
            pairs = parse_qsl(text.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
        except ValueError as error:
            raise InvalidError(f"more than {MAX_PARAMETERS} parameters", "query") from error
        given = dict(pairs)
        if len(given) < len(pairs):
            ((name, times),) = Counter(name for name, _ in pairs).most_common(1)
            raise InvalidError(f"is given {times} times; give it once", f"query.{name}")
        try:
            query = schema.model_validate(given)
        except ValidationError as error:
            raise RequestValidationError([_in_query(problem, schema) for problem in error.errors()]) from error
        for name in () if query.fields is None else query.fields.split(","):
            if name not in (known := answer.model_fields):
                problem = f"no column is named {name!r}{suggest(name, known)}; there are {', '.join(known)}"
                raise InvalidError(problem, "query.fields")
        return query

    return parse


def _in_query(problem: ErrorDetails, schema: type[Query]) -> dict[str, Any]:
    """A problem of a parameter, with its place in the request."""
    placed = {**problem, "loc": ("query", *problem["loc"])}
    if problem["type"] == "extra_forbidden":
        known = schema.model_fields
        placed["msg"] = f"is no parameter{suggest(str(problem['loc'][-1]), known)}; there are {', '.join(known)}"
    return placed
