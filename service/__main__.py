"""`python -m service`: read the settings, check that they can be served, run uvicorn."""

import gc
import logging
import sys

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp

from service.app import create_app
from service.errors import LowerboundError
from service.settings import Settings

SWITCH_INTERVAL = 2e-4
"""Seconds after which a thread gives way: at Python's 5 ms, finished batches wait for the event loop's next pause."""


def main() -> int:
    """Serve until told to stop; returns the exit status."""
    try:
        settings = CliApp.run(Settings)
        logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        app = create_app(settings)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        return _refuse("; ".join(problems))
    except LowerboundError as error:
        return _refuse(str(error))
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.collect()
    gc.freeze()  # What is loaded by now stays: a full collection need not walk it, which takes tens of milliseconds.
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=settings.log_level == "debug",
        proxy_headers=False,  # Who asks from behind a proxy makes no difference.
    )
    return 0


def _refuse(problem: str) -> int:
    print(f"lowerbound does not start: {problem}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
