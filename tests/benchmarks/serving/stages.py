"""The time of a single-row JSON request, stage by stage, in the running service.

The service is started as always, with a clock around each stage's function (`SEAMS`); what is left of the round trip is
routing, the event loop, hops between threads, and HTTP. Run as `python -m tests.benchmarks.serving.stages FILE ...`, it
is the service with its clocks, which writes what they saw to FILE when it is interrupted.
"""

import functools
import importlib
import inspect
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.serving.load import run, send_request
from tests.benchmarks.serving.reference import Reference
from tests.benchmarks.serving.servers import OURS, free_port, service_arguments, started

SEAMS = {
    "application": "service.api.problem_details:RequestMiddleware.__call__",
    "parse": "service.codecs.json:Json.decode",
    "check": "service.codecs.bodies:make_rows",
    "submit": "service.inference.batcher:Batcher.submit",
    "compute": "service.engine:OnnxEngine.run",
    "render": "service.codecs.json:Json.encode",
}
"""By stage, the function that is timed: `module:name`, as its caller finds it."""

CONNECTIONS = (1, 32)


def profile(reference: Reference, seconds: float) -> str:
    """The table, in Markdown: microseconds per request."""
    alone, crowd = (_measure(reference, connections, seconds) for connections in CONNECTIONS)
    head = ["| stage | 1 conn., wall | 32 conn., wall | 32 conn., CPU |", "|---|---:|---:|---:|"]
    rows = [
        f"| {stage} | {_us(alone[stage][0])} | {_us(crowd[stage][0])} | {_us(crowd[stage][1])} |" for stage in alone
    ]
    return "\n".join(head + rows)


def _us(microseconds: float | None) -> str:
    return "" if microseconds is None else f"{microseconds:,.0f}"


def _measure(reference: Reference, connections: int, seconds: float) -> dict[str, tuple[float | None, float | None]]:
    """By stage, microseconds per request: median on the clock, mean on the processor where that can be told."""
    port = free_port()
    requests = OURS.exchanges(reference.rows, 1, "json")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clocks.json"
        program = [sys.executable, "-m", "tests.benchmarks.serving.stages", str(file)]
        with started(
            [*program, *service_arguments(reference, port)], lambda: send_request(port, requests[0].request)
        ) as process:
            run(port, requests, connections, min(1.0, seconds))
            before = _processor_seconds(process.pid)
            load = run(port, requests, connections, seconds)
            processor = 1e6 * (_processor_seconds(process.pid) - before) / len(load.latencies)
        clocks = json.loads(file.read_text())
    wall = {stage: clock["median"] for stage, clock in clocks.items()}
    # An engine call is shared by the requests of its batch, each of which waits for all of it.
    share = {stage: clock["processor"] / clocks["submit"]["count"] for stage, clock in clocks.items()}
    whole = 1e6 * load.quantile(0.5)
    sync = ("parse", "check", "compute", "render")
    inside = wall["parse"] + wall["check"] + wall["submit"] + wall["render"]
    return {
        "parse: JSON to values": (wall["parse"], share["parse"]),
        "parse: values to a checked array": (wall["check"], share["check"]),
        "compute: ONNX Runtime (its batch)": (wall["compute"], share["compute"]),
        "render: answer to JSON": (wall["render"], share["render"]),
        "queue: batching, to the engine's thread and back": (wall["submit"] - wall["compute"], None),
        "the rest of the application: routing, query, calibration, headers": (wall["application"] - inside, None),
        "HTTP: server, sockets, client": (whole - wall["application"], None),
        "these three together: queue, rest, HTTP": (None, processor - sum(share[stage] for stage in sync)),
        "whole request": (whole, processor),
    }


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _install(seam: str, clock: tuple[list[int], list[int]]) -> None:
    """Put a clock, of nanoseconds on the wall and on the processor, around a function."""
    module, _, path = seam.partition(":")
    *outer, name = path.split(".")
    place: Any = functools.reduce(getattr, outer, importlib.import_module(module))
    function: Callable[..., Any] = getattr(place, name)
    wall, processor = clock

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def timed(*args: object, **kwargs: object) -> object:
            begin = time.perf_counter_ns()
            try:
                return await function(*args, **kwargs)
            finally:
                wall.append(time.perf_counter_ns() - begin)

    else:

        @functools.wraps(function)
        def timed(*args: object, **kwargs: object) -> object:
            used, begin = time.thread_time_ns(), time.perf_counter_ns()
            try:
                return function(*args, **kwargs)
            finally:
                wall.append(time.perf_counter_ns() - begin)
                processor.append(time.thread_time_ns() - used)

    setattr(place, name, timed)


def main(file: Path, arguments: list[str]) -> None:
    """Run the service with its clocks."""
    service = importlib.import_module("service.commands.serve")
    service.end_process = lambda: None  # type: ignore[attr-defined]  # It would end before the clocks are written.
    clocks: dict[str, tuple[list[int], list[int]]] = {stage: ([], []) for stage in SEAMS}
    for stage, seam in SEAMS.items():
        _install(seam, clocks[stage])
    try:
        service.main(arguments)
    except KeyboardInterrupt:
        pass
    finally:
        seen = {
            stage: {"median": float(np.median(wall)) / 1e3, "processor": sum(processor) / 1e3, "count": len(wall)}
            for stage, (wall, processor) in clocks.items()
        }
        file.write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
