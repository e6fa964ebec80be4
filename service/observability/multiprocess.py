"""The folder in which several processes share their metrics: prometheus_client's multiprocess mode."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that names the processes' common folder."""

PREFIX = "lowerbound-metrics-"
"""How the names of such folders begin."""

ROOM = 16 * 2**20
"""Bytes that must be free where processes share metrics."""

logger = logging.getLogger("service")


@contextmanager
def shared_folder() -> Iterator[Callable[[], None]]:
    """Make a folder for the metrics of several processes, and remove it at the end.

    Yields:
        A function to call before each process starts: it names the folder in the environment, if there is room in it.
        prometheus_client reads the environment when it is imported, so this process is not affected.
    """
    try:
        folder = TemporaryDirectory(prefix=PREFIX)
    except OSError as error:
        logger.warning("there is no folder for metrics of several processes (%s): each shows its own", error)
        yield lambda: None
        return

    def offer() -> None:
        if has_room(folder.name):
            os.environ[FOLDER] = folder.name
        else:
            os.environ.pop(FOLDER, None)
            logger.warning("%s has no room for metrics of several processes: the next one shows its own", folder.name)

    with folder:
        try:
            yield offer
        finally:
            os.environ.pop(FOLDER, None)


def has_room(folder: str) -> bool:
    """Whether metrics can be written to a folder. On a full disk, writing to mapped memory would end the process."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize >= ROOM and (found.f_favail > 0 or found.f_files == 0)
