"""`GET /docs`: the OpenAPI page for people, as one page without scripts, which loads nothing; and `/openapi.json`."""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Iterator
from functools import partial
from html import escape
from itertools import groupby
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from service.api.browsers import page_headers
from service.codecs.json import Json
from service.threads import in_thread

STYLE = """
:root { color-scheme: light dark; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }
h2 { margin-top: 2.5rem; font-size: 1.2rem; }
summary { padding: .45rem 0; border-top: 1px solid #8885; cursor: pointer; overflow-wrap: anywhere; }
details > :not(summary) { margin-left: 1.1rem; }
dt { margin-top: .5rem; }
dd { margin-left: 1.1rem; }
a { color: inherit; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""

HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Endpoints · {title}</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head><body><main>'
)

FOR_PROGRAMS = 'The same for programs: <a href="openapi.json">openapi.json</a>.'


def make_router() -> APIRouter:
    """The page for people and the one for programs, written once, beside the event loop."""
    router = APIRouter(include_in_schema=False)
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    headers = page_headers(f"default-src 'none'; style-src 'sha256-{digest}'")
    written: asyncio.Task[tuple[bytes, bytes]] | None = None

    async def pages(app: FastAPI) -> tuple[bytes, bytes]:
        nonlocal written
        if written is None:
            written = asyncio.create_task(in_thread(partial(_write, app)))
        return await asyncio.shield(written)

    @router.get("/docs")
    async def docs(request: Request) -> HTMLResponse:
        """Every operation of the OpenAPI page, in its order."""
        return HTMLResponse((await pages(request.app))[0], headers=headers)

    @router.get("/openapi.json")
    async def openapi(request: Request) -> Response:
        return Response((await pages(request.app))[1], media_type=Json.media_type)

    return router


def _write(app: FastAPI) -> tuple[bytes, bytes]:
    api = app.openapi()
    return _page(api).encode(), orjson.dumps(api)


def _page(api: dict[str, Any]) -> str:
    title = escape(api["info"]["title"])
    operations = [
        (operation.get("tags", ["service"])[0], method, path, operation)
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = api["components"]["schemas"]
    summary = escape(api["info"]["summary"])
    parts = [HEAD.format(title=title, style=STYLE), f"<h1>{title}</h1><p>{summary} {FOR_PROGRAMS}</p>"]
    for tag, group in groupby(operations, lambda operation: operation[0]):
        parts.append(f"<h2>{escape(tag.capitalize())}</h2>")
        parts += [_operation(method, path, operation, schemas) for _, method, path, operation in group]
    return "".join([*parts, "</main></body></html>"])


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    about, *more = _text(operation.get("description") or operation["summary"]).split("\n\n")
    parts = [f"<details><summary><code>{method.upper()} {escape(path)}</code> {about}</summary>"]
    parts += [f"<p>{paragraph}</p>" for paragraph in more]
    if parameters := operation.get("parameters"):
        named = {one["name"]: {**one["schema"], "description": one.get("description", "")} for one in parameters}
        parts.append(f"<h3>Parameters</h3>{_fields(named)}")
    if body := operation.get("requestBody"):
        parts.append(f"<h3>Body</h3>{_content(body['content'], schemas)}")
    for status, answer in operation["responses"].items():
        content = _content(answer["content"], schemas) if status == "200" and "content" in answer else ""
        parts.append(f"<h3>{status}: {_text(answer['description'])}</h3>{content}")
    return "".join([*parts, "</details>"])


def _content(content: dict[str, Any], schemas: dict[str, Any]) -> str:
    types = ", ".join(f"<code>{escape(media_type)}</code>" for media_type in content)
    reference = content.get("application/json", {}).get("schema", {}).get("$ref", "").rpartition("/")[2]
    return f"<p>{types}</p>" + _fields(schemas.get(reference, {}).get("properties", {}))


def _fields(fields: dict[str, dict[str, Any]]) -> str:
    entries = (
        f"<dt><code>{escape(name)}</code> {escape(', '.join(_kinds(schema)))}</dt>"
        f"<dd>{_text(schema.get('description', ''))}</dd>"
        for name, schema in fields.items()
    )
    return f"<dl>{''.join(entries)}</dl>"


def _kinds(schema: dict[str, Any]) -> Iterator[str]:
    """The values in words: their type or a list of them, and the default."""
    kinds = [
        one.get("enum", [one["type"]]) for one in schema.get("anyOf", [schema]) if one.get("type", "null") != "null"
    ]
    if kinds:
        yield " or ".join(dict.fromkeys(str(value) for choices in kinds for value in choices))
    if (default := schema.get("default")) is not None:
        yield f"default {default if isinstance(default, str) else json.dumps(default)}"


def _text(text: str) -> str:
    return re.sub(r"`(.*?)`", r"<code>\1</code>", escape(text))
