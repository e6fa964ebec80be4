"""Instructions of a request, stage by stage, counted by valgrind: the same beside any other work of the machine.

The service runs under callgrind, which counts between two commands. A stage's share is what a request takes more when
the stage's functions (`SEAMS`) run twice: they give the same answer again. Bare uvicorn is counted in the same way. Run
as `python -m tests.benchmarks.serving.instructions ARGUMENTS`, it is the service, without its clocks; each SIGUSR1
doubles the next stage in the place of the last.
"""

import functools
import importlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.serving.load import Connection, Exchange, LoadError, send_request
from tests.benchmarks.serving.reference import Reference
from tests.benchmarks.serving.servers import HTTP, OURS, free_port, service_arguments, started

SEAMS = {
    "parse: bytes to values": ("service.codecs.bodies:decode_if_quick",),
    "check: values to rows": ("service.codecs.bodies:make_rows",),
    "compute: ONNX Runtime": ("service.engine.engine:OnnxEngine.run",),
    "render: answer to bytes": ("service.codecs.json:Json.encode", "service.codecs.npy:Npy.encode"),
}
"""By stage, the functions that run twice: `module:name`, as their callers find them."""

LOADS = (("json", 1, 1, 32), ("json", 1, 32, 64), ("binary", 1, 32, 64), ("json", 64, 1, 2), ("binary", 64, 1, 2))
"""Format, rows of a request, connections that send at once, requests that are counted."""

PATIENCE = 600.0
"""Seconds that the service may take to start, and for an answer."""

HTTP_ALONE = "HTTP: bare uvicorn"
_CLOCKS = {"service.observability.metrics": "INTERVAL", "service.server.server": "_CHECK_EVERY"}
"""By module, the seconds after which something happens without a request."""


class NoValgrindError(Exception):
    """valgrind is not installed."""


def count(reference: Reference) -> str:
    """The table, in Markdown: thousands of instructions of one request.

    Raises:
        NoValgrindError: As it says.
    """
    if shutil.which("valgrind") is None:
        raise NoValgrindError("valgrind is not installed: apt-get install valgrind")
    bare = _count(reference, HTTP.command(reference, port := free_port(), Path(sys.executable)), port, ())
    port = free_port()
    program = [sys.executable, "-m", "tests.benchmarks.serving.instructions", *service_arguments(reference, port)]
    ours = _count(reference, [*program, "--timeout", "3600", "--engine-timeout", "3600"], port, tuple(SEAMS))
    lines = ["| | " + " | ".join(f"{rows}-row {form}, {n} conn." for form, rows, n, _ in LOADS) + " |"]
    lines.append("|---|" + "---:|" * len(LOADS))
    table = {HTTP_ALONE: bare[""], **{stage: _less(ours[stage], ours[""]) for stage in SEAMS}}
    table["the rest: application, batcher, threads"] = _less(ours[""], *table.values())
    table["**whole request**"] = ours[""]
    lines += [f"| {stage} | " + " | ".join(f"{n / 1e3:,.0f}" for n in counts) + " |" for stage, counts in table.items()]
    return "\n".join(lines)


def _less(whole: list[float], *parts: list[float]) -> list[float]:
    return [all_of_it - sum(taken) for all_of_it, *taken in zip(whole, *parts, strict=True)]


def _count(reference: Reference, command: list[str], port: int, stages: Sequence[str]) -> dict[str, list[float]]:
    """By stage that runs twice ("": none), the instructions of a request under each load."""
    requests = {load: OURS.exchanges(reference.rows, load[1], load[0]) for load in LOADS}
    first = requests[LOADS[0]][0].request
    counts: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        options = ["--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/counts"]
        under = ["valgrind", *options, *command]
        with started(under, lambda: send_request(port, first), patience=PATIENCE) as process:
            control = functools.partial(_control, process.pid)
            control("instrumentation", "on")
            for stage in ("", *stages):
                if stage:
                    process.send_signal(signal.SIGUSR1)
                counts[stage] = []
                for load, exchanges in requests.items():
                    with _connections(port, load[2]) as connections:
                        _send(connections, exchanges, load[2])
                        control("zero")
                        _send(connections, exchanges, load[3])
                        control("dump")
                    counts[stage].append(_total(Path(folder)) / load[3])
    return counts


def _control(pid: int, *command: str) -> None:
    subprocess.run(["vgdb", f"--pid={pid}", *command], check=True, capture_output=True)


def _total(folder: Path) -> int:
    totals = [re.search(r"^totals: (\d+)", file.read_text(), re.MULTILINE) for file in folder.glob("counts.*")]
    for file in folder.glob("counts.*"):
        file.unlink()
    (total,) = filter(None, totals)
    return int(total[1])


@contextmanager
def _connections(port: int, number: int) -> Iterator[list[Connection]]:
    connections = [Connection(port) for _ in range(number)]
    try:
        for connection in connections:
            connection.socket.settimeout(PATIENCE)
        yield connections
    finally:
        for connection in connections:
            connection.socket.close()


def _send(connections: list[Connection], exchanges: Sequence[Exchange], number: int) -> None:
    """So many requests, one by each connection at a time, so that batches are always of the same requests."""
    for start in range(0, number, len(connections)):
        for i, connection in enumerate(connections, start):
            connection.send(exchanges[i % len(exchanges)])
        for connection in connections:
            while (answer := connection.receive()) is None:
                pass
            if answer.status != connection.exchange.status:
                raise LoadError(f"status {answer.status}: {answer.body[:300]!r}")


def _double(stage: str, seam: str, current: list[str]) -> None:
    """Let a function run twice while its stage is the current one."""
    module, _, path = seam.partition(":")
    *outer, name = path.split(".")
    place: Any = functools.reduce(getattr, outer, importlib.import_module(module))
    function: Callable[..., Any] = getattr(place, name)

    @functools.wraps(function)
    def doubled(*args: object, **kwargs: object) -> object:
        if current[0] == stage:
            function(*args, **kwargs)
        return function(*args, **kwargs)

    setattr(place, name, doubled)


def main(arguments: list[str]) -> None:
    """Run the service, of which stages can be doubled."""
    for module, name in _CLOCKS.items():
        setattr(importlib.import_module(module), name, 1e6)
    current = [""]
    stages = iter(SEAMS)
    for stage, seams in SEAMS.items():
        for seam in seams:
            _double(stage, seam, current)
    signal.signal(signal.SIGUSR1, lambda number, frame: current.__setitem__(0, next(stages)))
    importlib.import_module("service.commands.serve").main(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
