"""The serving benchmark: one command, one table.

    python3 -m venv .venv/peers && .venv/peers/bin/pip install -r tests/benchmarks/serving/peers/requirements.txt
    .venv/test/bin/python -m tests.benchmarks.serving                       # all of it: about half an hour
    .venv/test/bin/python -m tests.benchmarks.serving table --seconds 1     # a quick look

`table` compares the service with its peers, with ONNX Runtime alone, and with the limit, in which the times of HTTP
alone, of the JSON parser and of ONNX Runtime are added; in rounds, every server started anew in each. `stages` says
where the time of a request goes, and `instructions` (only if named) where its instructions go, on a busy machine too;
`workers` what a second process brings; `memory` watches a long run; `overload` offers more than can be done. Linux, two
cores or more: the server has core 0, the load generator core 1; nothing else should run.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks.serving.ceiling import BATCHES
from tests.benchmarks.serving.instructions import count
from tests.benchmarks.serving.load import Load, LoadError, run
from tests.benchmarks.serving.memory import soak
from tests.benchmarks.serving.overload import overload
from tests.benchmarks.serving.reference import Reference, write_reference
from tests.benchmarks.serving.scaling import scaling
from tests.benchmarks.serving.servers import (
    HTTP,
    LOAD_CORE,
    OURS,
    SERVER_CORE,
    SERVERS,
    NotInstalledError,
    Server,
    on_cores,
    serve,
)
from tests.benchmarks.serving.stages import profile

WARM_UP = 1.0
PARTS = ("table", "stages", "workers", "memory", "overload")
MORE = ("instructions",)
"""Parts that run only where they are asked for."""


@dataclass(frozen=True)
class Cell:
    """One kind of load: a column of the table."""

    form: str
    rows: int
    connections: int

    def __str__(self) -> str:
        return f"{self.rows}-row {self.form}, {self.connections} conn."


ALONE = Cell("json", 1, 1)
CELLS = (ALONE, Cell("json", 1, 32), Cell("json", 64, 8), Cell("binary", 1, 32), Cell("binary", 64, 8))

Results = dict[str, dict[Cell, list[Load]]]
"""By server and load, one for each round."""

Ceilings = dict[str, dict[int, list[float]]]
"""What `ceiling` measures, by batch size, one for each round."""


def main() -> int:
    """Run what was asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS + MORE)}")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="of the memory run, and of ten loads beyond the capacity"
    )
    parser.add_argument("--peers", type=Path, default=Path(".venv/peers/bin/python"), help="the peers' interpreter")
    parser.add_argument("--only", nargs="*", default=[], help="servers by name, beside Lowerbound; all if not given")
    given = parser.parse_args()
    parts = given.parts or PARTS
    if unknown := set(parts) - {*PARTS, *MORE}:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS + MORE)}")
    if not {SERVER_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        parser.error(f"needs the cores {SERVER_CORE} and {LOAD_CORE}")
    os.sched_setaffinity(0, {LOAD_CORE})
    python = given.peers.absolute()
    servers = [server for server in SERVERS if server is OURS or not given.only or server.name in given.only]

    with tempfile.TemporaryDirectory() as folder:
        reference = write_reference(Path(folder))
        print(f"{platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} cores; one for each side\n")
        if "table" in parts:
            results, ceilings, absent = _measure(servers, reference, python, given.seconds, given.rounds)
            print("Rows a second, of bare uvicorn requests a second;", end=" ")
            print(f"median of {given.rounds} x {given.seconds:g} s (least to most).\n")
            print(_table(results, ceilings, absent), end="\n\n")
            print(
                f"Milliseconds of a request: median, 99th percentile. Generator at most {_busiest(results):.0%} busy.\n"
            )
            print(_latencies(results), end="\n\n")
        if "stages" in parts:
            print("Microseconds of a single-row JSON request.\n")
            print(profile(reference, given.seconds), end="\n\n")
        if "instructions" in parts:
            print("Thousands of instructions of a request.\n")
            print(count(reference), end="\n\n")
        if "workers" in parts:
            print(f"Rows a second; median of {given.rounds} x {given.seconds:g} s.\n")
            print(scaling(reference, given.seconds, given.rounds), end="\n\n")
        if "memory" in parts:
            print(soak(reference, given.minutes, python), end="\n\n")
        if "overload" in parts:
            print(overload(reference, 6 * given.minutes, python))
    return 0


def _measure(
    servers: list[Server], reference: Reference, python: Path, seconds: float, rounds: int
) -> tuple[Results, Ceilings, dict[str, str]]:
    """Round by round, so that a slow minute of the machine falls on all alike."""
    results: Results = defaultdict(lambda: defaultdict(list))
    ceilings: Ceilings = {"rows": defaultdict(list), "parsing": defaultdict(list)}
    absent: dict[str, str] = {}
    for number in range(rounds):
        for name, measured in _ceiling(reference, seconds).items():
            for batch, value in measured.items():
                ceilings[name][int(batch)].append(value)
        for server in servers:
            _progress(f"round {number + 1} of {rounds}: {server.name}")
            try:
                with serve(server, reference, python) as (port, _):
                    for cell in CELLS:
                        if cell.form in server.requests:
                            exchanges = server.exchanges(reference.rows, cell.rows, cell.form)
                            load = run(port, exchanges, cell.connections, seconds, min(WARM_UP, seconds))
                            results[server.name][cell].append(load)
            except NotInstalledError:
                absent[server.name] = "not installed"
            except (LoadError, OSError) as error:
                absent[server.name] = "failed"
                _progress(f"{server.name}: {error}")
    return results, ceilings, absent


def _ceiling(reference: Reference, seconds: float) -> dict[str, dict[str, float]]:
    command = [sys.executable, str(Path(__file__).parent / "ceiling.py"), str(reference.peers), str(seconds)]
    with on_cores({SERVER_CORE}):
        done = subprocess.run(command, capture_output=True, check=True, text=True)
    measured: dict[str, dict[str, float]] = json.loads(done.stdout)
    return measured


def _limit(cell: Cell, http: dict[Cell, list[Load]], ceilings: Ceilings) -> float:
    """Rows a second if a request took no more than HTTP alone, the parser and ONNX Runtime, one after the other."""
    seconds = 1 / median(load.requests_per_second for load in http[cell])
    seconds += cell.rows / median(_alone(cell, ceilings))
    if cell.form == "json":
        seconds += median(ceilings["parsing"][cell.rows])
    return cell.rows / seconds


def _alone(cell: Cell, ceilings: Ceilings) -> list[float]:
    """Rows a second of ONNX Runtime; one connection leaves nothing to batch, else all waiting rows can be one batch."""
    return ceilings["rows"][min(BATCHES) if cell == ALONE else max(BATCHES)]


def _table(results: Results, ceilings: Ceilings, absent: dict[str, str]) -> str:
    lines = [_line("", *CELLS), "|---|" + "---:|" * len(CELLS)]
    for name, cells in results.items():
        values = [_spread([load.rows_per_second for load in cells[cell]]) if cells.get(cell) else "" for cell in CELLS]
        lines.append(_line(name, *values))
    lines.append(_line("ONNX Runtime alone", *(_spread(_alone(cell, ceilings)) for cell in CELLS)))
    http = results.get(HTTP.name, {})
    limits = {cell: _limit(cell, http, ceilings) for cell in CELLS if http.get(cell)}
    lines.append(_line("limit", *(f"{limits[cell]:,.0f}" if cell in limits else "" for cell in CELLS)))
    lines.extend(_line(name, problem, *[""] * (len(CELLS) - 1)) for name, problem in absent.items())
    ours = results[OURS.name]
    for name, cells in results.items():
        if name not in (OURS.name, HTTP.name):
            lines.append(_line(f"**Lowerbound / {name}**", *(_ratio(ours, cells, cell) for cell in CELLS)))
    shares = [
        f"**{_rate(ours, cell) / limits[cell]:.2f}**" if ours.get(cell) and cell in limits else "" for cell in CELLS
    ]
    lines.append(_line("**Lowerbound / limit**", *shares))
    return "\n".join(lines)


def _latencies(results: Results) -> str:
    lines = [_line("", *CELLS), "|---|" + "---:|" * len(CELLS)]
    for name, cells in results.items():
        values = []
        for cell in CELLS:
            loads = cells.get(cell, [])
            quantiles = (1e3 * median(load.quantile(share) for load in loads) for share in (0.5, 0.99)) if loads else ()
            values.append(", ".join(f"{quantile:,.2f}" for quantile in quantiles))
        lines.append(_line(name, *values))
    return "\n".join(lines)


def _rate(cells: dict[Cell, list[Load]], cell: Cell) -> float:
    return median(load.rows_per_second for load in cells[cell])


def _ratio(ours: dict[Cell, list[Load]], theirs: dict[Cell, list[Load]], cell: Cell) -> str:
    if not (ours.get(cell) and theirs.get(cell)):
        return ""
    return f"**{_rate(ours, cell) / _rate(theirs, cell):.2f}**"


def _spread(rates: list[float]) -> str:
    return f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


def _busiest(results: Results) -> float:
    return max((load.busy for cells in results.values() for loads in cells.values() for load in loads), default=0.0)


def _line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
