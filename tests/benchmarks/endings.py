"""How soon a killed worker is replaced, and how soon a service ends on SIGTERM, in ten states.

    .venv/test/bin/python -m tests.benchmarks.endings                # all: about ten minutes
    .venv/test/bin/python -m tests.benchmarks.endings --kills 50     # only the kills

Two workers are under load, and one of them is killed at a random moment, of its start too. Noticed is the time until
another process is there, serves the time until that accepts requests. A service is then brought into one state after
another, and told to end. Linux.
"""

import argparse
import os
import platform
import random
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median

import httpx
import numpy as np

from service.bundle import read_bundle, write_bundle
from service.storage import DEFAULT_REPOSITORY
from tests.benchmarks.hostile_requests import HEAD
from tests.conftest import wait_until
from tests.service.http_client import NPY, npy
from tests.service.load import ONE, RIGHT, Load
from tests.service.processes import Workers, is_serving, start

BODY = {"instances": [ONE]}
GRACE = 5
"""Seconds that a service has to answer the requests in flight."""

until = partial(wait_until, seconds=60, ignoring=(httpx.TransportError, OSError))


@contextmanager
def workers(folder: Path, *flags: str, number: int = 2) -> Iterator[Workers]:
    """A service that serves."""
    started = start(folder, "--graceful-shutdown-timeout", str(GRACE), *flags, workers=number)
    try:
        until(lambda: len(started.pids()) == number if number > 1 else True)
        until(lambda: started.send_request(path="/health/ready").is_success)
        if number > 1:
            until(lambda: all(is_serving(started, pid) for pid in started.pids()))
        yield started
    finally:
        if started.parent.poll() is None:
            started.parent.kill()


def kills(number: int, seed: int) -> None:
    """Kill a worker so many times under load, and say how long its replacement took."""
    chance = random.Random(seed)
    noticed, served = [], []
    with tempfile.TemporaryDirectory() as name, workers(folder := Path(name)) as service:
        good = service.send_request("POST", "/elbo", json=BODY).raise_for_status().content
        with Load(service.url, good, 4) as load:
            for _ in range(number):
                time.sleep(chance.uniform(0, 4))  # A start takes about two seconds, so some are killed in it.
                before = service.pids()
                lines = (folder / "log").read_text().count("serving digits")
                os.kill(chance.choice(sorted(before)), signal.SIGKILL)
                killed = time.monotonic()
                until(lambda before=before: service.pids() - before)  # type: ignore[misc]
                noticed.append(time.monotonic() - killed)
                until(lambda lines=lines: (folder / "log").read_text().count("serving digits") > lines)  # type: ignore[misc]
                served.append(time.monotonic() - killed)
        seen, again = load.seen, load.again
    print(f"kill -9: {number} times; another process after {median(noticed):.3f} s, {max(noticed):.3f} s at most;")
    print(f"it serves after {median(served):.1f} s, {max(served):.1f} s at most;")
    others = {kind: count for kind, count in seen.items() if kind != RIGHT}
    print(f"{seen[RIGHT]:,} requests answered, {again} asked again, others {others}\n", flush=True)


# States


def _post(service: Workers, path: str, stack: ExitStack, **options: object) -> None:
    """Ask beside, for longer than the state lasts."""

    def ask() -> None:
        with suppress(httpx.TransportError):
            service.send_request("POST", path, **options)

    thread = threading.Thread(target=ask)
    thread.start()
    stack.callback(thread.join)


def idle(service: Workers, folder: Path, stack: ExitStack) -> None:
    """Nothing to do."""


def under_load(service: Workers, folder: Path, stack: ExitStack) -> None:
    """Four clients ask without a pause."""
    good = service.send_request("POST", "/elbo", json=BODY).content
    stack.enter_context(Load(service.url, good, 4))
    time.sleep(1)


def stopped(service: Workers, folder: Path, stack: ExitStack) -> None:
    """A worker has been stopped by a signal."""
    os.kill(min(service.pids()), signal.SIGSTOP)
    time.sleep(0.2)


def hangups(service: Workers, folder: Path, stack: ExitStack) -> None:
    """Four SIGHUPs, each of which replaces all workers."""
    for _ in range(4):
        service.parent.send_signal(signal.SIGHUP)
        time.sleep(0.3)


def loading(service: Workers, folder: Path, stack: ExitStack) -> None:
    """A version is tried in its own process."""
    bundle = read_bundle(DEFAULT_REPOSITORY / "digits" / "1")
    manifest = bundle.manifest.model_copy(update={"version": 2})
    write_bundle(folder / "models", manifest, bundle.files)
    time.sleep(0.3)


def half_a_body(service: Workers, folder: Path, stack: ExitStack) -> None:
    """A body that never ends."""
    sender = stack.enter_context(socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2]))))
    sender.sendall(HEAD % 10**6 + b"x" * 1000)
    time.sleep(0.2)


def no_reader(service: Workers, folder: Path, stack: ExitStack) -> None:
    """A client that does not read its answer of megabytes."""
    sender = stack.enter_context(socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2]))))
    sender.sendall(b"GET /sample?n=100000 HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n")
    time.sleep(2)


def long_request(service: Workers, folder: Path, stack: ExitStack) -> None:
    """Rows and draws for longer than the grace."""
    body = npy(np.zeros((64, 8, 8), np.uint8))
    for _ in range(12):
        _post(service, "/elbo?num_draws=4096", stack, content=body, headers={"Content-Type": NPY})
    time.sleep(3)


def large_body(service: Workers, folder: Path, stack: ExitStack) -> None:
    """Sixty MiB of JSON are parsed."""
    content = b'{"instances": [' + b"[[[1]]]," * (7 * 2**20) + b"[[[1]]]]}"
    _post(service, "/elbo", stack, content=content, headers={"Content-Type": "application/json"})
    time.sleep(1.5)


def starting(service: Workers, folder: Path, stack: ExitStack) -> None:
    """A killed worker's replacement has just begun to start."""
    os.kill(min(service.pids()), signal.SIGKILL)
    time.sleep(0.3)


STATES: dict[str, tuple[Callable[[Workers, Path, ExitStack], None], int]] = {
    "idle": (idle, 2),
    "under load": (under_load, 2),
    "a worker stopped": (stopped, 2),
    "four SIGHUPs before": (hangups, 2),
    "a worker starts": (starting, 2),
    "a version is tried": (loading, 1),
    "a body that never ends": (half_a_body, 1),
    "an answer that nobody reads": (no_reader, 1),
    "requests longer than the grace": (long_request, 1),
    "60 MiB of JSON parsed": (large_body, 1),
}


def endings() -> None:
    """Print a row for each state."""
    print(f"SIGTERM, {GRACE} s of grace\n\n| state | workers | status | seconds to the end | processes left |")
    print("|---|---:|---:|---:|---:|")
    for name, (state, number) in STATES.items():
        with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
            folder = Path(temporary)
            shutil.copytree(DEFAULT_REPOSITORY, folder / "models")
            flags = ("--models", str(folder / "models"), "--poll", "0.1", "--max-queue", "4194304")
            service = stack.enter_context(workers(folder, *flags, number=number))
            state(service, folder, stack)
            children = descendants(service.parent.pid)
            service.parent.terminate()
            begun = time.monotonic()
            status = service.parent.wait(120)
            seconds = time.monotonic() - begun
            time.sleep(1)  # Python's own tracker of resources ends after its parent.
            left = sum(map(runs, children))
            print(f"| {name} | {number} | {status} | {seconds:.1f} | {left} |", flush=True)


def descendants(pid: int) -> list[int]:
    """A process's children and their children."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found + [other for child in found for other in descendants(child)]


def runs(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and is not waited for has no command line."""
    with suppress(OSError):
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    return False


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, help="kill so often, and nothing else")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, {platform.machine()}\n")
    if arguments.kills is None:
        endings()
    kills(arguments.kills or 50, arguments.seed)


if __name__ == "__main__":
    main()
