"""`python -m service`: read the settings, check that they can be served, run uvicorn."""

import gc
import signal
import sys
from contextlib import nullcontext, suppress

from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_settings import CliApp
from uvicorn.config import Config

from service.api.app import create_app
from service.errors import LowerboundError
from service.observability import logs
from service.observability.metrics import shared_folder
from service.server import Connection, Server, Supervisor, tune_process
from service.settings import Settings

WORKER_PATIENCE = 60
"""Seconds in which a worker must give a sign of life, or be replaced; imports alone take several on a busy machine."""


def main() -> int:
    """Serve until told to stop; returns the exit status."""
    try:
        settings = CliApp.run(Settings)
        several = settings.workers > 1
        if settings.poll is not None and not several:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # Until the folder is followed, which begins with a look.
        app = make_app()
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        return _refuse("; ".join(problems))
    except LowerboundError as error:
        return _refuse(str(error))
    # uvicorn, once it has answered what was under way, raises again the signal that told it to.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    if several:  # Each process makes the application for itself; this one has seen that they can.
        del app
        gc.unfreeze()
        gc.collect()
    config = Config(
        "service.__main__:make_app" if several else app,
        factory=several,
        workers=settings.workers,
        timeout_worker_healthcheck=WORKER_PATIENCE,
        timeout_graceful_shutdown=settings.graceful_shutdown_timeout,
        http=Connection,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # The service has its own.
        server_header=False,
        proxy_headers=False,  # Who asks from behind a proxy makes no difference.
    )
    with shared_folder() if several else nullcontext(), suppress(KeyboardInterrupt):
        if several:
            Supervisor(config).run()
        else:
            Server(config).run()
    return 0


def make_app() -> FastAPI:
    """The application as the command line and the environment say, and the process made ready for it.

    Raises:
        ValidationError: They do not make settings.
        LowerboundError: See `create_app`.
    """
    settings = CliApp.run(Settings)
    logs.configure(settings.log_level, settings.log_format, every_request=settings.access_log)
    app = create_app(settings)
    tune_process()
    return app


def _refuse(problem: str) -> int:
    print(f"lowerbound does not start: {problem}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
