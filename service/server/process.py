"""The process: its settings before it serves, and its end."""

import gc
import logging
import os
import sys
from typing import NoReturn

SWITCH_INTERVAL = 2e-4
"""Seconds after which a thread gives way: at Python's 5 ms, finished batches wait for the event loop's next pause."""

COLLECT_AFTER = 10_000
"""New objects between two collections: at Python's 700, each one walks what a few requests have in hand."""


def tune_process() -> None:
    """Let threads give way soon, and what is loaded by now stay: a full collection need not walk that for 10 ms."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(COLLECT_AFTER)
    gc.collect()
    gc.freeze()


def end_process() -> NoReturn:
    """End a process that has served, with status 0, or that of the exception being handled.

    A thread may be loading a version: at an orderly end the interpreter would stop it within ONNX Runtime and abort.
    """
    error = sys.exception()
    status = 0 if error is None or isinstance(error, KeyboardInterrupt) else 1
    if isinstance(error, SystemExit):  # uvicorn has logged why.
        status = error.code if isinstance(error.code, int) else 1
    elif status:
        sys.excepthook(*sys.exc_info())
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
