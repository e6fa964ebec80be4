"""Faults and attacks under load, one after the other: what was lost, and how long it took to recover.

    .venv/test/bin/python -m tests.benchmarks.faults                 # all: some minutes
    .venv/test/bin/python -m tests.benchmarks.faults clock hang      # those whose names have one of these words

For each a service is started, and clients ask it without a pause, each on its own connection; every answer is held
against the bytes that the same request got before. A request whose connection breaks before there is an answer is asked
again, once, on another. Lost is a request that was sent and neither answered rightly then nor refused (429, 503), wrong
an answer of other bytes. A request is disturbed that is asked again, lost, wrong or refused, or takes `SLOW` seconds
longer than usual; the service has recovered when the last of these has ended. Linux.
"""

import argparse
import contextlib
import os
import platform
import resource
import shutil
import signal
import socket
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import httpx
import numpy as np

from service.bundle import read_bundle, write_bundle
from service.storage import DEFAULT_REPOSITORY
from tests.benchmarks import hostile_requests
from tests.conftest import process_of, run_server, wait_until
from tests.service.bundle_versions import DAMAGES
from tests.service.clock import make_clock
from tests.service.http_client import NPY, npy
from tests.service.load import ONE, RIGHT, UNCONNECTED, WRONG, Load, Outcome
from tests.service.processes import Workers, address_space, is_serving, limited, peak, start

CLIENTS = 4
STEADY = 1.0
"""Seconds of load before the fault, and after it."""

SLOW = 0.5
REFUSED = "refused"
ENGINE_TIMEOUT = 1.0
COLUMNS = (
    *("fault or attack", "what happened", "right", "asked again", "lost", "wrong"),
    *("recovered after, s", "longest answer, s"),
)

until = partial(wait_until, seconds=60, ignoring=(httpx.TransportError, OSError))


@dataclass
class Victim:
    """A service under load.

    Attributes:
        client: Asks it beside the load.
        folder: Of its files.
        workers: Its processes, where there are several.
        begun: When the fault began.
    """

    client: httpx.Client
    folder: Path
    workers: Workers | None = None
    begun: float = field(default_factory=time.monotonic)

    @property
    def port(self) -> int:
        return self.client.base_url.port or 0

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def send_request(self) -> bytes:
        return self.client.post("/elbo", json={"instances": [ONE]}).raise_for_status().content


Serve = Callable[[Path], AbstractContextManager[Victim]]


@dataclass(frozen=True)
class Trial:
    """A fault or an attack: the service that it befalls, and what it does, and says of what happened."""

    name: str
    serve: Serve
    strike: Callable[[Victim], str]


# Services


@contextmanager
def one(folder: Path, *flags: str, **settings: str) -> Iterator[Victim]:
    with run_server("--engine-threads", "2", *flags, log=folder / "log", **settings) as client:
        yield Victim(client, folder)


@contextmanager
def faulty(folder: Path) -> Iterator[Victim]:
    """Its engines have the fault that a file says."""
    (folder / "fault").touch()
    program = ("tests.service.faulty_server", str(folder / "fault"))
    flags = ("--engine-threads", "2", "--engine-timeout", str(ENGINE_TIMEOUT))
    with run_server(*flags, program=program, log=folder / "log") as client:
        yield Victim(client, folder)


@contextmanager
def two_workers(folder: Path) -> Iterator[Victim]:
    workers = start(folder, "--access-log")
    try:
        until(lambda: len(workers.pids()) == 2)
        until(lambda: all(is_serving(workers, pid) for pid in workers.pids()))
        with httpx.Client(base_url=workers.url, timeout=30) as client:
            yield Victim(client, folder, workers)
    finally:
        workers.parent.terminate()
        workers.parent.wait(60)


@contextmanager
def following(folder: Path) -> Iterator[Victim]:
    """It has a copy of the embedded model, and follows its folder."""
    shutil.copytree(DEFAULT_REPOSITORY, folder / "models")
    with one(folder, "--models", str(folder / "models"), "--poll", "0.1") as victim:
        yield victim


@contextmanager
def with_a_clock(folder: Path) -> Iterator[Victim]:
    with one(folder, **make_clock(folder).environment) as victim:
        yield victim


# Faults


def engine_fault(kind: str, victim: Victim) -> str:
    (victim.folder / "fault").write_text(f"{kind} 1")
    until(lambda: "another engine serves" in victim.log())  # To ask /model would help to find it.
    return "found, another engine in its place"


def kill_a_worker(victim: Victim) -> str:
    assert victim.workers
    before = victim.workers.pids()
    os.kill(min(before), signal.SIGKILL)
    until(lambda: len(victim.workers.pids() - before) == 1)  # type: ignore[union-attr]
    until(lambda: victim.log().count("serving digits 1 on ") == 3)
    return f"another one serves {time.monotonic() - victim.begun:.1f} s later"


def terminate(victim: Victim) -> str:
    assert victim.workers
    victim.workers.parent.terminate()
    status = victim.workers.parent.wait(60)
    seconds = time.monotonic() - victim.begun
    read = [line for line in victim.log().splitlines() if " route=/elbo " in line]
    answered = sum(" status=200 " in line for line in read)
    return f"ended with status {status} after {seconds:.1f} s; of {len(read):,} requests read {answered:,} answered"


def bad_versions(victim: Victim) -> str:
    bundle = read_bundle(DEFAULT_REPOSITORY / "digits" / "1")
    for version, damage in enumerate(DAMAGES, 2):
        made = write_bundle(
            victim.folder / "made", bundle.manifest.model_copy(update={"version": version}), bundle.files
        )
        said = damage(made)
        made.rename(victim.folder / "models" / "digits" / str(version))
        until(lambda said=said, n=str(version): said in _refused(victim).get(n, ""))  # type: ignore[misc]
    return f"{len(DAMAGES)} of {len(DAMAGES)} refused, and why"


def _refused(victim: Victim) -> dict[str, str]:
    refused: dict[str, str] = victim.client.get("/models").json()["refused"].get("digits", {})
    return refused


def spoil_the_bundle(victim: Victim) -> str:
    folder = victim.folder / "models" / "digits" / "1"
    (folder / "weights.bin").write_bytes(b"")
    (folder / "elbo.onnx").write_bytes(b"something else")
    time.sleep(1)
    shutil.rmtree(victim.folder / "models")
    time.sleep(1)
    victim.client.get("/health/ready").raise_for_status()
    return "what was verified is in memory, and served on"


def set_the_clock(victim: Victim) -> str:
    for seconds in (10**5, -(10**5), 10**8, 0):
        (victim.folder / "shift").write_text(str(seconds))
        time.sleep(1)
    assert victim.client.get("/model").json()["replaced_engines"] == 0
    return "4 jumps, of up to 3 years; nothing expired, nothing was taken to hang"


def take_descriptors(victim: Victim) -> str:
    used = len(list(Path(f"/proc/{process_of(victim.client)}/fd").iterdir()))
    with limited(victim.client, resource.RLIMIT_NOFILE, used + 20), contextlib.ExitStack() as held:
        for _ in range(100):
            held.enter_context(socket.create_connection(("127.0.0.1", victim.port), 5))
        time.sleep(2)
    until(lambda: httpx.get(f"{victim.client.base_url}/health/ready", timeout=5).is_success)
    return "who was connected was served; others wait until there are some"


def take_memory(victim: Victim) -> str:
    def send_request() -> httpx.Response:
        return victim.client.post("/elbo?num_draws=1", content=body, headers={"Content-Type": NPY, "Accept": NPY})

    body = npy(np.zeros((200_000, 8, 8), np.uint8))
    with limited(victim.client, resource.RLIMIT_AS, address_space(process_of(victim.client)) + 8 * 2**20):
        status = send_request().status_code
    send_request().raise_for_status()
    return f"the request that was too much got {status}, and 200 later"


# Attacks


def attack(send: Callable[[Victim], Counter[str]], victim: Victim) -> str:
    process = process_of(victim.client)
    before = peak(process)
    answers = send(victim)
    grown = (peak(process) - before) / 2**20
    return ", ".join(f"{kind}: {number:,}" for kind, number in sorted(answers.items())) + f"; +{grown:.0f} MiB at most"


TRIALS = (
    Trial("the engine fails", faulty, partial(engine_fault, "raise")),
    Trial("the engine hangs", faulty, partial(engine_fault, "hang")),
    Trial("the engine answers NaN", faulty, partial(engine_fault, "nan")),
    Trial("the engine answers finite numbers that are wrong", faulty, partial(engine_fault, "wrong")),
    Trial("kill -9 of one worker of two", two_workers, kill_a_worker),
    Trial("SIGTERM to the parent of two workers", two_workers, terminate),
    Trial("versions truncated, tampered with, garbled, misleading", following, bad_versions),
    Trial("the served bundle overwritten, then its folder gone", following, spoil_the_bundle),
    Trial("the wall clock jumps", with_a_clock, set_the_clock),
    Trial("file descriptors exhausted", one, take_descriptors),
    Trial("memory exhausted", one, take_memory),
    *(
        Trial(name, serve, partial(attack, send))
        for name, serve, send in (
            ("200 slow senders of heads", one, lambda v: hostile_requests.slow_heads(v.port, 200)),
            ("100 requests of 100,000 headers", one, lambda v: hostile_requests.many_headers(v.port, 100)),
            ("100 uploads broken off", one, lambda v: hostile_requests.broken_uploads(v.port, 100)),
            ("200 clients that leave before their answer", one, lambda v: hostile_requests.leavers(v.port, 200)),
            ("16 bombs of gzip and deflate, 512 MiB each", one, lambda v: hostile_requests.bombs(v.client, 16)),
            ("bodies of NaN, of terabytes, of 10^6 levels", one, lambda v: hostile_requests.bodies(v.client)),
            (
                "32 clients that ask for more than the queue takes",
                lambda folder: one(folder, *hostile_requests.SHORT_QUEUE),
                lambda v: hostile_requests.crowd(v.client.base_url, 32),
            ),
        )
    ),
)


# The table


@dataclass(frozen=True)
class Row:
    """What became of the load.

    Attributes:
        name: Of the trial.
        happened: In words.
        right: Answers.
        again: Requests that were asked again.
        lost: Requests, see the module's docstring.
        wrong: Answers.
        recovered: Seconds from the fault's beginning to the end of the last disturbed request, if there was any.
        longest: Seconds that a right answer took at most.
    """

    name: str
    happened: str
    right: int
    again: int
    lost: int
    wrong: int
    recovered: float | None
    longest: float

    def __str__(self) -> str:
        recovered = "at once" if self.recovered is None else f"{self.recovered:.1f}"
        counts = (f"{self.right:,}", self.again, self.lost, self.wrong)
        return _line(self.name, self.happened, *counts, recovered, f"{self.longest:.2f}")


def run(trial: Trial, folder: Path) -> Row:
    """Try one."""
    with trial.serve(folder) as victim:
        good = victim.send_request()
        with Load(str(victim.client.base_url), good, CLIENTS) as load:
            time.sleep(STEADY)
            while not load.seen[RIGHT]:  # On a busy machine.
                time.sleep(0.1)
            victim.begun = begun = time.monotonic()
            happened = trial.strike(victim)
            time.sleep(STEADY)
    by_kind: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in load.outcomes:
        by_kind[REFUSED if outcome.kind.startswith(("429", "503")) else outcome.kind].append(outcome)
    # Who never had a connection has sent nothing.
    by_kind[UNCONNECTED] = [outcome for outcome in by_kind[UNCONNECTED] if outcome.again]
    right = by_kind[RIGHT]
    too_long = SLOW + median(outcome.ended - outcome.begun for outcome in right if outcome.ended < begun)
    disturbed = [outcome for outcome in right if outcome.again or outcome.ended - outcome.begun > too_long]
    disturbed += [outcome for kind, outcomes in by_kind.items() if kind != RIGHT for outcome in outcomes]
    others = "".join(f"; {kind}: {len(outcomes)}" for kind, outcomes in by_kind.items() if kind != RIGHT and outcomes)
    return Row(
        name=trial.name,
        happened=happened + others,
        right=len(right),
        again=load.again,
        lost=sum(len(outcomes) for kind, outcomes in by_kind.items() if kind not in {RIGHT, WRONG, REFUSED}),
        wrong=len(by_kind[WRONG]),
        recovered=max((outcome.ended - begun for outcome in disturbed), default=None),
        longest=max(outcome.ended - outcome.begun for outcome in right),
    )


def _line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="run the trials whose names have one of these; all if none is given")
    words = parser.parse_args().words
    print(f"{CLIENTS} clients, {platform.machine()}\n\n{_line(*COLUMNS)}\n|---|---|" + "---:|" * (len(COLUMNS) - 2))
    for trial in TRIALS:
        if not words or any(word in trial.name for word in words):
            with tempfile.TemporaryDirectory() as folder:
                print(run(trial, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
