"""What a second process brings: the service with one worker on one core, and with two on two.

The load generator shares the second core, which it hardly uses: requests are large, or it would be the bottleneck.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.benchmarks.serving.load import LoadError, run, send_request
from tests.benchmarks.serving.reference import Reference
from tests.benchmarks.serving.servers import LOAD_CORE, OURS, PATIENCE, SERVER_CORE, free_port, service_command, started

CORES = {1: {SERVER_CORE}, 2: {SERVER_CORE, LOAD_CORE}}
"""By number of workers."""

LOADS = (("binary", 64, 16), ("json", 64, 16))
"""Format, rows each, connections."""


def scaling(reference: Reference, seconds: float, rounds: int) -> str:
    """The table, in Markdown: rows a second."""
    rates: dict[tuple[tuple[str, int, int], int], list[float]] = {}
    for _ in range(rounds):
        for workers in CORES:
            with _serve(reference, workers) as port:
                for load in LOADS:
                    form, rows, connections = load
                    exchanges = OURS.exchanges(reference.rows, rows, form)
                    done = run(port, exchanges, connections, seconds, min(1.0, seconds))
                    rates.setdefault((load, workers), []).append(done.rows_per_second)
    lines = ["| | one worker, one core | two workers, two cores | ratio |", "|---|---:|---:|---:|"]
    for load in LOADS:
        one, two = (median(rates[load, workers]) for workers in CORES)
        lines.append(f"| {load[1]}-row {load[0]}, {load[2]} conn. | {one:,.0f} | {two:,.0f} | **{two / one:.2f}** |")
    return "\n".join(lines)


@contextmanager
def _serve(reference: Reference, workers: int) -> Iterator[int]:
    port = free_port()
    requests = OURS.exchanges(reference.rows, 64, "binary")
    command = service_command(reference, port, "--workers", str(workers))
    with started(command, lambda: send_request(port, requests[0].request), CORES[workers]) as process:
        deadline = time.monotonic() + PATIENCE
        while len(_busy(process.pid, lambda: run(port, requests, 16, 0.5))) < workers:
            if time.monotonic() > deadline:
                raise LoadError(f"not all of {workers} workers answer")
        yield port


def _busy(pid: int, work: Callable[[], object]) -> list[int]:
    """The processes, of this one and its children, that take a part of some work."""
    before = _processor_ticks(pid)
    work()
    after = _processor_ticks(pid)
    return [process for process, ticks in after.items() if ticks - before.get(process, ticks) >= 10]


def _processor_ticks(pid: int) -> dict[int, int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = {}
    for process in (pid, *map(int, children)):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks[process] = int(fields[11]) + int(fields[12])
    return ticks
