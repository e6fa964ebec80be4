"""Ray Serve beside the plain service, and nodes lost under load: two tables.

    .venv/test/bin/python -m tests.benchmarks.cluster

The first asks both, one after the other in each round, for the same bounds: one process that serves, on one core, with
all that belongs to it (of Ray that is some ten processes more), the load on another core. The second has a cluster of
three nodes of two replicas each, one of which loses all its processes at once while clients ask without a pause; every
answer is held against the bytes that it should be. Linux, two cores or more; nothing else should run.
"""

import argparse
import os
import platform
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median

from tests.benchmarks.serving.load import Load as Measured
from tests.benchmarks.serving.load import run
from tests.benchmarks.serving.reference import write_reference
from tests.benchmarks.serving.servers import LOAD_CORE, OURS, SERVER_CORE, on_cores, serve
from tests.conftest import wait_until
from tests.service.load import ONE, RIGHT, WRONG, Load
from tests.service.ray_serve.machines import Machines, machines

CELLS = (("json", 1, 1), ("json", 64, 8), ("binary", 64, 8))
"""Form, rows of a request, connections."""

PLAIN, RAY = "plain", "Ray Serve"
WARM_UP = 1.0
STEADY = 2.0
"""Seconds of load before a node is lost."""

SLOW = 0.5
"""Seconds over the median at which an answer is late."""

REPLICAS = 6


def main() -> None:
    """Measure both, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--losses", type=int, default=5, help="nodes lost, one after the other")
    given = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} cores\n")
    print(overhead(given.seconds, given.rounds), end="\n\n")
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    print(losses(given.losses))


def overhead(seconds: float, rounds: int) -> str:
    """Rows a second and a request's median, of both."""
    found: dict[tuple[str, int], list[Measured]] = defaultdict(list)
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory() as folder:
        reference = write_reference(Path(folder))

        def measure(name: str, port: int) -> None:
            for i, (form, rows, connections) in enumerate(CELLS):
                exchanges = OURS.exchanges(reference.rows, rows, form)
                found[name, i].append(run(port, exchanges, connections, seconds, WARM_UP))

        for _ in range(rounds):
            with serve(OURS, reference, Path()) as (port, _):
                measure(PLAIN, port)
            with on_cores({SERVER_CORE}), machines(1) as cluster:
                flags = ("--models", str(reference.models), "--engine-threads", "1")
                with cluster.serve(*flags, replicas=1, cpus=1, prefix="/") as client:
                    os.sched_setaffinity(0, {LOAD_CORE})
                    measure(RAY, client.base_url.port or 0)
    lines = [
        "| | plain, rows a second | Ray Serve, rows a second | ratio | plain: median, 99 %, ms | Ray Serve |",
        "|---|" + "---:|" * 5,
    ]
    for i, (form, rows, connections) in enumerate(CELLS):
        plain, ray = found[PLAIN, i], found[RAY, i]
        share = median(load.rows_per_second for load in ray) / median(load.rows_per_second for load in plain)
        cells = [_spread(plain), _spread(ray), f"{share:.2f}", _latencies(plain), _latencies(ray)]
        lines.append(f"| {rows}-row {form}, {connections} conn. | {' | '.join(cells)} |")
    return "\n".join(lines)


def losses(times: int) -> str:
    """What clients saw of each lost node."""
    columns = ("sent", "right", "asked again", "lost", "wrong")
    seconds = ("last late answer after, s", "longest answer, s", "six replicas again after, s")
    lines = [f"| {' | '.join((*columns, *seconds))} |", "|" + "---:|" * 8]
    with (
        machines(3) as cluster,
        cluster.serve("--engine-threads", "1", replicas=REPLICAS, cpus=0.5, prefix="/") as client,
    ):
        good = client.post("/elbo", json={"instances": [ONE]}).raise_for_status().content
        lines += [_lose(cluster, cluster.url, good) for _ in range(times)]
    return "\n".join(lines)


def _lose(cluster: Machines, url: str, good: bytes) -> str:
    with Load(url, good) as load:
        time.sleep(STEADY)
        usual = median(outcome.ended - outcome.begun for outcome in load.outcomes)
        began = time.monotonic()
        cluster.kill(cluster.nodes[0])
        cluster.add()
        wait_until(lambda: _replicas(cluster) == REPLICAS, 120)
        restored = time.monotonic() - began
        time.sleep(STEADY)
    seen = Counter(outcome.kind for outcome in load.outcomes)
    late = [
        outcome.ended - began
        for outcome in load.outcomes
        if outcome.ended > began and (outcome.kind != RIGHT or outcome.ended - outcome.begun > usual + SLOW)
    ]
    lost = sum(count for kind, count in seen.items() if kind not in {RIGHT, WRONG})
    longest = max(outcome.ended - outcome.begun for outcome in load.outcomes)
    cells = [
        f"{sum(seen.values()):,}",
        f"{seen[RIGHT]:,}",
        str(load.again),
        str(lost),
        str(seen[WRONG]),
        f"{max(late, default=0):.1f}" if late else "at once",
        f"{longest:.2f}",
        f"{restored:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _replicas(cluster: Machines) -> int:
    """Those that serve on nodes that live."""
    nodes = {node.node_id for node in cluster.nodes}
    return sum(replica["node_id"] in nodes for replica in cluster.replicas(cluster.deployed))


def _spread(loads: list[Measured]) -> str:
    rates = sorted(load.rows_per_second for load in loads)
    return f"{median(rates):,.0f} ({rates[0]:,.0f} to {rates[-1]:,.0f})"


def _latencies(loads: list[Measured]) -> str:
    return ", ".join(f"{1e3 * median(load.quantile(share) for load in loads):.2f}" for share in (0.5, 0.99))


if __name__ == "__main__":
    main()
