"""The Python client beside raw HTTP: a frame of 100,000 rows, scored by a real server.

    .venv/test/bin/python -m tests.benchmarks.client

The model is probabilistic PCA over 20 columns, the server has one engine thread, and both sides have the same batches
of 4,096 rows in Arrow, four under way. Raw HTTP sends bodies that are made before, and leaves the answers as bytes; the
client makes the bodies and a frame of the answers. Printed: rows a second, in turns, the processor's time on this side,
and the memory that a call takes beside the frame.
"""

import asyncio
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
from lowerbound import Client

from tests.conftest import run_server
from tests.oracle import bring_your_own

ROWS, COLUMNS, BATCH, UNDER_WAY, ROUNDS = 100_000, 20, 4096, 4, 9
ARROW = "application/vnd.apache.arrow.stream"
MIB = 2**20


def bodies(frame: pd.DataFrame) -> list[bytes]:
    """The requests, as the client cuts them."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    made = []
    for start in range(0, len(frame), BATCH):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(start, BATCH))
        made.append(sink.getvalue().to_pybytes())
    return made


async def raw(url: str, given: list[bytes]) -> None:
    """Send all, some at a time, and take the answers."""
    waiting = iter(given)
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:

        async def work() -> None:
            for body in waiting:
                answer = await client.post("/elbo", content=body, headers={"Content-Type": ARROW, "Accept": ARROW})
                answer.raise_for_status()

        await asyncio.gather(*(work() for _ in range(UNDER_WAY)))


def resident(name: str) -> float:
    """Memory of this process in MiB: `VmRSS`, or `VmHWM`, the most since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 4)) @ rng.normal(size=(4, COLUMNS)) + 0.1 * rng.normal(size=(ROWS, COLUMNS))
    memory = 0.0
    speeds: dict[str, list[float]] = {"raw": [], "client": []}
    costs: dict[str, list[float]] = {"raw": [], "client": []}

    def measure(name: str, work: Callable[[], Any]) -> Any:
        began, spent = time.perf_counter(), time.process_time()
        done = work()
        speeds[name].append(ROWS / (time.perf_counter() - began))
        costs[name].append(time.process_time() - spent)
        return done

    with tempfile.TemporaryDirectory() as folder:
        bring_your_own.write(Path(folder) / "models", "table", bring_your_own.fit(x[:5000], 4), x[:5000], num_draws=16)
        with run_server("--models", f"{folder}/models", "--engine-threads", "1", log=Path(folder) / "log") as server:
            names = [column["name"] for column in server.get("/model").json()["manifest"]["input"]["columns"]]
            frame = pd.DataFrame(x, columns=names)
            given, url = bodies(frame), str(server.base_url)
            with Client(url, batch_rows=BATCH, concurrency=UNDER_WAY) as client:
                client.score(frame[:BATCH])
                for _ in range(ROUNDS):
                    measure("raw", lambda: asyncio.run(raw(url, given)))
                    Path("/proc/self/clear_refs").write_text("5")
                    before = resident("VmRSS")
                    answer = measure("client", lambda: client.score(frame))
                    memory = max(memory, resident("VmHWM") - before)
    ratios = [ours / theirs for ours, theirs in zip(speeds["client"], speeds["raw"], strict=True)]
    print(f"{platform.machine()}, {ROUNDS} rounds, median (least to most)")
    for name, values in speeds.items():
        print(
            f"| {name} | {statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f}) rows a second, "
            f"{statistics.median(costs[name]):.2f} s of processor |"
        )
    print(f"| client / raw | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |")
    sizes = [frame.memory_usage().sum() / MIB, answer.memory_usage().sum() / MIB]
    print(f"frame {sizes[0]:.1f} MiB, answer {sizes[1]:.1f} MiB, a call at most {memory:.1f} MiB beside the frame")


if __name__ == "__main__":
    main()
