"""Servers as the operating system sees them: workers, which can be singled out, and limits on what one may have."""

import contextlib
import os
import re
import resource
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests import warm
from tests.conftest import process_of


@dataclass(frozen=True)
class Workers:
    """A service of one process, the parent, or of several workers that it has."""

    parent: warm.Process
    url: str

    def pids(self) -> set[int]:
        """The processes that serve."""
        return servers(self.parent.pid)

    def send_request(self, method: str = "GET", path: str = "/health/live", **options: Any) -> httpx.Response:
        """On a connection of its own, which any of the workers may accept."""
        return httpx.request(method, self.url + path, timeout=30, **options)

    @contextlib.contextmanager
    def only(self, pid: int) -> Iterator[None]:
        """Let none but one accept, for less time than after which the parent replaces the others."""
        others = self.pids() - {pid}
        for other in others:
            os.kill(other, signal.SIGSTOP)
        try:
            yield
        finally:
            for other in others:
                os.kill(other, signal.SIGCONT)


def start(tmp_path: Path, *arguments: str, workers: int = 2) -> Workers:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["service", "--workers", str(workers), "--port", str(port), *arguments]
    # The second option reaches the workers by the environment, the others by the command line.
    parent = warm.start(command, tmp_path / "log", LOWERBOUND_DEVICE="cpu")
    return Workers(parent, f"http://127.0.0.1:{port}")


def servers(parent: int) -> set[int]:
    """The children that serve; a parent has another one, which looks after its resources."""
    found = set()
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # It has ended since.
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(int(pid))
    return found


def is_serving(workers: Workers, pid: int) -> bool:
    with workers.only(pid):
        return httpx.get(workers.url + "/health/ready", timeout=2).is_success


def ignores(pid: int, number: int, kinds: str = "SigIgn") -> bool:
    """Whether a signal does nothing to a process, by one of its masks in /proc, named by a regular expression."""
    masks = re.findall(rf"{kinds}:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def peak(pid: int) -> int:
    """Most bytes of a process that were resident since its start or the last `reset_peak`."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", status)[0])


def reset_peak(pid: int) -> None:
    """Let `peak` begin with what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def address_space(pid: int) -> int:
    """Bytes that a process has mapped."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


@contextlib.contextmanager
def limited(client: httpx.Client, kind: int, most: int) -> Iterator[None]:
    """Take away what a server may have, for a while."""
    process = process_of(client)
    before = resource.prlimit(process, kind)
    resource.prlimit(process, kind, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process, kind, before)
