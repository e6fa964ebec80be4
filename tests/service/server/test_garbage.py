"""A closed connection leaves nothing that only a garbage collection would free: it may hold what was read of a body."""

import asyncio
import gc
import weakref
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import uvloop
from uvicorn.config import Config

from service.api.app import create_app
from service.server.connection import Connection
from service.server.crowd import Crowd
from service.settings import Settings
from tests.service.bundle_versions import ROWS, publish
from tests.service.sockets import LIVE, post


class _Noticed(Connection):
    made: ClassVar[weakref.WeakSet["_Noticed"]] = weakref.WeakSet()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.made.add(self)


@pytest.mark.parametrize(
    "sent",
    [
        LIVE,
        LIVE[:9],
        LIVE.replace(b"1.1", b"1.0"),
        LIVE.replace(b"Host", b"Hose"),
        post(b'{"instances": %b}' % str(ROWS[:1].tolist()).encode()),
        post(b"no JSON", b"Connection: close"),
        post(b"x" * 100)[:-50],
        post(b"").replace(b"Content-Length: 0", b"Content-Length: 999999999") + b"x" * 70_000,
        LIVE.replace(b"/health/live", b"/sample?n=4096"),
    ],
    ids=["answered", "unfinished head", "last", "refused", "scored", "wrong", "unfinished body", "too large", "unread"],
)
def test_a_closed_connection_is_freed_at_once(tmp_path: Path, sent: bytes) -> None:
    publish(tmp_path, 1)

    async def main() -> bool:
        app = create_app(Settings(models=tmp_path, engine_threads=1))
        config = Config(app, http=_Noticed, log_config=None, proxy_headers=False, interface="asgi3")
        config.load()
        make = partial(_Noticed, config, Crowd(), {})
        async with (
            app.router.lifespan_context(app),
            await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0) as server,
        ):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(sent)
            assert await _until(1)
            gc.collect()
            gc.disable()
            await asyncio.sleep(0.3)
            writer.close()
            del reader, writer
            return await _until(0)

    try:
        assert uvloop.run(main())
    finally:
        gc.enable()


async def _until(number: int) -> bool:
    """Whether so many connections are there, within five seconds."""
    for _ in range(500):
        if len(_Noticed.made) == number:
            return True
        await asyncio.sleep(0.01)
    return False


def test_a_client_that_leaves_at_once_leaves_no_task(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    crowd = Crowd()

    class Left(Connection):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            assert crowd.tasks
            self.connection_lost(None)  # Before the task runs.

    async def main() -> None:
        app = create_app(Settings(models=tmp_path, engine_threads=1))
        config = Config(app, http=Left, log_config=None, proxy_headers=False, interface="asgi3")
        config.load()
        make = partial(Left, config, crowd, {})
        async with await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0) as server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(LIVE)
            await asyncio.sleep(0.2)
            writer.close()

    uvloop.run(main())
    assert not crowd.tasks
