"""The trial of a bundle in a process of its own, before this process loads it.

A hostile graph or file may compute for ever, take all memory, or crash the process that loads it. In a trial this
happens to the trial's process. The service ends that process and refuses the bundle.
"""

import json
import os
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path
from threading import Timer
from typing import Any

import service
from service.bundle import MAX_BYTES
from service.errors import BundleError, NotReadyError

BOOT = 60.0
"""Seconds in which the process must be there; its imports alone take several on a busy machine."""

RATE = 20 * 2**20
"""Bytes of a bundle for which it has a second more."""

_MOST = 2**16
"""Bytes of an answer that are read."""

_WHOLE = 2.0
"""Seconds in which an answer that has begun must be whole."""


class Trial:
    """A process that tries bundles one after the other; it is started for the first, and again after one that ends it.

    Args:
        seconds: Time for the trial of a small bundle.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def close(self) -> None:
        """End the process, and start no other; what is being tried is refused."""
        self._closed = True
        self._end()

    def check(self, folder: Path, digest: str, size: int) -> None:
        """Try a bundle whose manifest has this SHA-256, with time and memory for the bytes of all its files.

        Raises:
            BundleError: It is not whole, does not answer its golden rows in time, or ends the process.
            NotReadyError: It cannot be tried now.
        """
        size = min(size, MAX_BYTES)
        seconds = self._seconds + size / RATE
        if self._process is None:
            self._start()
        try:
            asked = {"folder": str(folder.absolute()), "digest": digest, "size": size, "seconds": seconds}
            self._connection.send_bytes(json.dumps(asked).encode())
            answer = self._receive(seconds)
        except TimeoutError as error:
            self._end()
            raise BundleError(f"{folder}: is not read and its golden rows answered in {seconds:.0f} seconds") from error
        except (OSError, EOFError, ValueError) as error:
            raise BundleError(f"{folder}: ends the process that tries it ({self._end(1)}); memory?") from error
        if "error" in answer:
            raise BundleError(str(answer["error"]))

    def _start(self) -> None:
        """Start the process; see `service.engine.trial`."""
        if self._closed:
            raise NotReadyError("no more bundles are tried")
        path = [str(Path(service.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LOWERBOUND_")}
        self._connection, theirs = Pipe()
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - this interpreter and module
                    [sys.executable, "-P", "-m", "service.engine.trial", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=environment | {"PYTHONPATH": os.pathsep.join(path)},
                )
            self._receive(BOOT)
        except (OSError, EOFError, ValueError) as error:
            raise NotReadyError(f"no process to try bundles in: {error} ({self._end(1)})") from error

    def _receive(self, seconds: float) -> dict[str, Any]:
        process = self._process
        if process is None or not self._connection.poll(seconds):
            raise TimeoutError
        begun = Timer(_WHOLE, process.kill)  # A bundle may have taken the process over.
        begun.start()
        try:
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes(_MOST))
        finally:
            begun.cancel()
        return answer

    def _end(self, patience: float = 0) -> str:
        """End the process, if it does not end by itself before long; says how it ended."""
        process, self._process = self._process, None
        if process is None:
            return "not started"
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._connection.close()
        return f"status {process.returncode}"
