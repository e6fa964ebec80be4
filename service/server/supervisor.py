"""Supervision: worker processes on one port, kept at their number, replaced one after another, ended together.

The supervisor waits on one set of file descriptors: a pipe from each worker, which ends with it, and the signals.
So it never waits for one worker while another, or a signal, needs it.
"""

import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import connection as pipes
from multiprocessing import get_context

from uvicorn.config import Config

from service.server.process import end_process
from service.server.server import MARGIN, Server

PATIENCE = 60.0
"""Seconds without a sign of life after which a worker that has served is killed. Its start is not limited: an engine
may take minutes to compile."""

PAUSE = 1.0
"""Seconds before another worker is started after one that ended before it served."""

_TICK = 0.5

logger = logging.getLogger("service")


class Supervisor:
    """The parent of several servers that share its socket; `prepare` is called before each start."""

    def __init__(self, config: Config, prepare: Callable[[], None]) -> None:
        self._config = config
        self._prepare = prepare
        self._listener = config.bind_socket()
        self._workers: list[_Worker] = []
        self._outdated: list[_Worker] = []
        self._not_before = 0.0  # The time of the next start.
        self._heard: set[int] = set()  # Signals that are not obeyed yet.
        self._stopping = False

    def run(self) -> None:
        """Start the workers, keep their number, and end with them."""
        awake, waker = socket.socketpair()
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, frame: self._heard.add(number))
        while self._workers or not self._stopping:
            self._keep_number()
            ready = pipes.wait([awake, *(worker.pipe for worker in self._workers)], _TICK)
            if awake in ready:
                awake.recv(4096)
            numbers, self._heard = self._heard, set()
            self._obey(numbers)
            for worker in self._workers.copy():
                if worker.pipe in ready and not worker.hear():
                    self._bury(worker)
                elif worker.is_late():
                    logger.error("worker %d gives no sign of life, and is killed", worker.process.pid)
                    worker.process.kill()

    def _obey(self, numbers: set[int]) -> None:
        if numbers & {signal.SIGINT, signal.SIGTERM}:
            self._stopping = True
            self._listener.close()
            for worker in self._workers:
                worker.stop(self._config.timeout_graceful_shutdown or 0)
        elif signal.SIGHUP in numbers:
            self._outdated = [worker for worker in self._workers if not worker.stopping]

    def _keep_number(self) -> None:
        """Start a missing worker. During a replacement there is one more, until that serves and an old one may go."""
        if self._stopping:
            return
        current = [worker for worker in self._workers if not worker.stopping]
        if self._outdated and len(current) > self._config.workers and all(worker.serves for worker in current):
            self._outdated.pop(0).stop(self._config.timeout_graceful_shutdown or 0)
        elif len(current) < self._config.workers + bool(self._outdated) and time.monotonic() >= self._not_before:
            try:
                self._prepare()
                self._workers.append(_Worker(self._config, self._listener))
            except OSError as error:  # Files, processes or memory are used up, or the current folder is gone.
                if not self._workers:
                    raise
                logger.warning("no worker can be started: %s", error)
                self._not_before = time.monotonic() + PAUSE

    def _bury(self, worker: "_Worker") -> None:
        """Forget a worker that has ended."""
        worker.process.join(PAUSE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        self._workers.remove(worker)
        if worker in self._outdated:
            self._outdated.remove(worker)
        if not worker.stopping:
            logger.error("worker %d ended with status %s", worker.process.pid, worker.process.exitcode)
        if not worker.serves:
            self._outdated.clear()  # The old ones serve on.
            self._not_before = time.monotonic() + PAUSE


class _Worker:
    """A child of the supervisor.

    Attributes:
        pipe: Has a byte for each sign of life, and ends with the process.
        serves: Whether it has begun to serve.
        stopping: Whether it has been told to stop.
    """

    def __init__(self, config: Config, listener: socket.socket) -> None:
        context = get_context("spawn")
        self.pipe, beats = context.Pipe(duplex=False)
        self.process = context.Process(target=_serve, args=(config, listener, beats))
        # SIGHUP concerns the parent alone, and may be sent to all. A new process would end by it until it ignores it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        beats.close()  # Or the pipe would not end with the process.
        self.serves = self.stopping = False
        self._deadline = float("inf")

    def hear(self) -> bool:
        """Take a sign of life; whether there was one, and not the end."""
        try:
            self.pipe.recv_bytes()
        except (EOFError, OSError):
            self.pipe.close()
            return False
        self.serves = True
        if not self.stopping:
            self._deadline = time.monotonic() + PATIENCE
        return True

    def is_late(self) -> bool:
        """Whether the process must be killed."""
        return time.monotonic() > self._deadline

    def stop(self, grace: float) -> None:
        """Tell the process to end within the grace, even if it has been stopped by a signal."""
        self.stopping = True
        self._deadline = time.monotonic() + grace + MARGIN
        self.process.terminate()
        with suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, signal.SIGCONT)


def _serve(config: Config, listener: socket.socket, beats: "pipes.Connection") -> None:
    """A worker's process."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    try:
        Server(config, partial(beats.send_bytes, b".")).run([listener])
    finally:
        end_process()
