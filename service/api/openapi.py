"""Parts of the OpenAPI page that routes share, and the lookup of a path's model."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Path, Request
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.api.auth import is_open
from service.api.content import MODEL_HEADERS
from service.api.problem_details import PROBLEM_MEDIA_TYPE
from service.api.schemas import Instances, Latents, Problem
from service.bundle import VERSION, ModelName
from service.codecs.json import Json
from service.codecs.oip_messages import InferRequest, ProtocolError
from service.codecs.registry import ALL_READERS, ANSWERS, READERS
from service.errors import STATUS, LowerboundError, NotFoundError, NotReadyError, OverloadedError, UnauthorizedError
from service.inference import Model, ModelLoader
from service.observability.context import REQUEST_ID_HEADER

_REFERENCE = "#/components/schemas/{model}"
_UNSEEN = (Problem, Instances, Latents, InferRequest, ProtocolError)
_BINARY = {"type": "string", "format": "binary"}
_ENCODING = {
    "name": "Content-Encoding",
    "in": "header",
    "description": "How the body is compressed: gzip or deflate.",
    "schema": {"type": "string", "default": "identity"},
}
_ERROR_HEADERS: dict[type[LowerboundError], dict[str, str]] = {
    UnauthorizedError: {"WWW-Authenticate": "`Bearer`."},
    OverloadedError: {"Retry-After": "Seconds after which to try again."},
}


def served_model(request: Request) -> Model:
    """The model that the path names: `/models/{name}[/versions/{version}]`, or the default."""
    return find_model(request, request.path_params.get("name"))


def find_model(request: Request, name: str | None) -> Model:
    """The model of that name, or the default, in the version that the path names, or the latest."""
    loader: ModelLoader = request.app.state.loader
    version = request.path_params.get("version")
    if version is not None and not VERSION.fullmatch(version):
        raise NotFoundError(f"{version!r} is no version", "path.version")
    return loader.registry.get(name, version and int(version))


async def check_ready(request: Request) -> None:
    """Pass if every model's engine gives the right answer now, at the cost of one small engine call per model.

    Raises:
        NotReadyError: One does not, or the service is shutting down.
    """
    if request.app.state.draining:
        raise NotReadyError("the service is shutting down")
    await request.app.state.loader.registry.check()


ServedModel = Annotated[Model, Depends(served_model)]


async def named(name: Annotated[ModelName, Path(description="The model.")]) -> None:
    """Describes the path parameter `name`."""


async def versioned(version: Annotated[int, Path(ge=1, description="Its version.")]) -> None:
    """Describes the path parameter `version`."""


def complete_openapi(app: FastAPI, *, closed: bool) -> None:
    """Add to the OpenAPI page what FastAPI does not see.

    Those are the schemas that handlers refer to, since it reads no body here, and where the service is `closed`, what
    asks for a key.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            page = FastAPI.openapi(app)
            _, schemas = models_json_schema([(model, "validation") for model in _UNSEEN], ref_template=_REFERENCE)
            page["components"]["schemas"] |= schemas["$defs"]
            if closed:
                page["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
                for path, operations in page["paths"].items():
                    for operation in operations.values():
                        operation["security"] = [] if is_open(path) else [{"key": []}]
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def body(schema: type[BaseModel], media_types: Iterable[str] | None = None) -> dict[str, Any]:
    """An OpenAPI request body: `schema` as JSON, or the same in a binary format; of all that are read if not told."""
    if media_types is None:
        media_types = ALL_READERS if schema is Instances else READERS
    content = {name: {"schema": _refer(schema) if name == Json.media_type else _BINARY} for name in media_types}
    return {"parameters": [_ENCODING], "requestBody": {"required": True, "content": content}}


def answers(schema: type[BaseModel], *media_types: str, headers: Mapping[str, str]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI responses of an endpoint that computes: its answer in each media type, and every problem."""
    content = {name: {"schema": _BINARY} for name in (*ANSWERS, *media_types) if name != Json.media_type}
    ok = {"model": schema, "content": content, "headers": describe_headers({**MODEL_HEADERS, **headers})}
    return {200: ok} | problems(*STATUS)


def problems(*errors: type[LowerboundError]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI responses for these errors."""
    described: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        headers = _ERROR_HEADERS.get(error, {})
        described[STATUS[error].value] = {
            "description": (error.__doc__ or "").partition("\n")[0],
            "content": {PROBLEM_MEDIA_TYPE: {"schema": _refer(Problem)}},
            "headers": describe_headers(headers),
        }
    return described


def failure() -> dict[int | str, dict[str, Any]]:
    """The OpenAPI response for every failure of the Open Inference Protocol."""
    content = {Json.media_type: {"schema": _refer(ProtocolError)}}
    headers = {
        "WWW-Authenticate": "With 401: `Bearer`.",
        "Retry-After": "With 429: seconds after which to try again.",
        "Accept-Encoding": "With 501: how a body may be compressed.",
    }
    return {"default": {"description": "Any failure.", "content": content, "headers": describe_headers(headers)}}


def _refer(schema: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=schema.__name__)}


def describe_headers(described: dict[str, str]) -> dict[str, Any]:
    """The OpenAPI headers of an answer."""
    everywhere = {REQUEST_ID_HEADER: "The request's own, or a new one."}
    return {
        name: {"description": text, "schema": {"type": "string"}} for name, text in (described | everywhere).items()
    }
