"""A request leaves no objects that refer to each other, which only a garbage collection would free."""

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvloop

from service.api.app import create_app
from service.settings import Settings
from tests.service.bundle_versions import ROWS, publish

REQUESTS = 20


GOOD = orjson.dumps({"instances": ROWS[:1].tolist()})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/elbo", GOOD),
        ("/elbo?num_draws=0", GOOD),
        ("/elbo", b"no JSON"),
        ("/elbo", b'{"instances": [[1, "two"]]}'),
        ("/elbo", b'{"instances": [[1], [1, 2]]}'),
        ("/elbo?on_error=mark", b'{"instances": [["one"]]}'),
        ("/nothing", GOOD),
    ],
)
def test_requests_leave_no_garbage(tmp_path: Path, path: str, body: bytes) -> None:
    publish(tmp_path, 1)
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]

    async def main() -> int:
        app = create_app(Settings(models=tmp_path, engine_threads=1))
        async with app.router.lifespan_context(app):
            for _ in range(2):  # The first fills caches.
                gc.collect()
                gc.disable()
                for _ in range(REQUESTS):
                    await asyncio.create_task(ask(app, path, headers, body))
                found = gc.collect()
        return found

    try:
        assert uvloop.run(main()) < REQUESTS
    finally:
        gc.enable()


async def ask(app: Callable[..., Any], path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """One request, in a task of its own, as the server makes it."""
    plain, _, query = path.partition("?")
    scope = {"type": "http", "method": "POST", "path": plain, "query_string": query.encode(), "headers": headers}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        pass

    await app(scope, receive, send)
