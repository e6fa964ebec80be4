"""The process: what it is told before it serves, once the application is made."""

import gc
import sys

SWITCH_INTERVAL = 2e-4
"""Seconds after which a thread gives way: at Python's 5 ms, finished batches wait for the event loop's next pause."""


def tune_process() -> None:
    """Let threads give way soon, and what is loaded by now stay: a full collection need not walk that for 10 ms."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.collect()
    gc.freeze()
