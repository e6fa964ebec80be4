"""Gain and cost of refinement, over HTTP, on a served model's own test rows.

    make serve &
    .venv/test/bin/python -m tests.benchmarks.refinement http://127.0.0.1:8000

For each number of steps: the mean ELBO and regret, the smallest regret (which is never below 0), and the time of a
request of 64 rows, median of five, as a multiple of the same request without refinement in the same round.
"""

import platform
import statistics
import sys
import time

import httpx
import numpy as np

from tests.benchmarks.held_out import score, served_model

STEPS = (0, 1, 5, 10, 20, 50)
ROWS, ROUNDS = 64, 5
MOST_ROWS = 1000


def main(url: str = "http://127.0.0.1:8000") -> None:
    """Print the table."""
    client = httpx.Client(base_url=url, timeout=600)
    manifest, device, rows = served_model(client)
    rows = rows[:MOST_ROWS]
    seconds: dict[int, list[float]] = {steps: [] for steps in STEPS}
    for _ in range(ROUNDS):
        for steps in STEPS:
            started = time.perf_counter()
            score(client, rows[:ROWS], ROWS, refine=steps)
            seconds[steps].append(time.perf_counter() - started)
    print(f"{manifest.name} {manifest.version}, {len(rows):,} test rows, {manifest.num_draws} draws", end="; ")
    print(f"{device}, {platform.machine()}")
    print("| steps | mean ELBO | mean regret | smallest | a request of 64 rows, ms | × without | a step × without |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for steps in STEPS:
        answer = score(client, rows, ROWS, refine=steps)
        regret = answer["regret"] if steps else np.zeros(len(rows))
        ratios = [own / plain for own, plain in zip(seconds[steps], seconds[0], strict=True)]
        ratio = statistics.median(ratios)
        fastest, middle, slowest = (1e3 * f(seconds[steps]) for f in (min, statistics.median, max))
        cells = [
            str(steps),
            f"{answer['elbo'].mean():.3f}",
            f"{regret.mean():.3f}",
            f"{regret.min():.1e}",
            f"{middle:.0f} ({fastest:.0f} to {slowest:.0f})",
            f"{ratio:.1f}",
            f"{(ratio - 1) / (steps + 1):.1f}" if steps else "",
        ]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(*sys.argv[1:])
