"""`lowerbound serve`: read the settings, check that they can be served, run uvicorn."""

import gc
import os
import signal
import sys
from functools import partial
from typing import NoReturn

from fastapi import FastAPI
from uvicorn.config import Config

from service.api.app import create_app
from service.cli import parse
from service.observability import logs
from service.observability.multiprocess import shared_folder
from service.server import Connection, Server, Supervisor, end_process, tune_process
from service.settings import Settings


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        ValidationError: The arguments or the environment do not make settings.
        LowerboundError: See `create_app`.
    """
    # The first process of a container ignores signals without a handler. One that raises would not do during the start:
    # in a destructor Python ignores the exception.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    settings = parse(Settings, arguments)
    several = settings.workers > 1
    if settings.poll is not None or several:
        # Ignored until the folder is watched, which begins with a check, or there are workers, which are new then.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    app = make_app(settings)
    if several:  # Each worker makes its own application; this one has shown that the settings can be served.
        del app
        gc.unfreeze()
        gc.collect()
    # uvicorn answers the requests in flight, then raises the signal again that stopped it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    config = Config(
        partial(make_app, settings) if several else app,
        factory=several,
        workers=settings.workers,
        timeout_graceful_shutdown=settings.graceful_shutdown_timeout,
        http=Connection,
        interface="asgi3",
        ws="none",
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # The service writes its own.
        server_header=False,
        proxy_headers=False,  # No answer depends on the client's address.
    )
    if several:
        with shared_folder() as offer:
            Supervisor(config, offer).run()
        return
    try:
        Server(config).run()
    finally:
        end_process()


def _end(number: int, frame: object) -> NoReturn:
    """End the process at once, in which nothing has been begun that has to be ended."""
    os._exit(128 + number if number == signal.SIGINT else 0)


def make_app(settings: Settings) -> FastAPI:
    """Make the application, and tune the process for it.

    Raises:
        LowerboundError: See `create_app`.
    """
    logs.configure(settings.log_level, settings.log_format, every_request=settings.access_log)
    app = create_app(settings)
    tune_process()
    return app
