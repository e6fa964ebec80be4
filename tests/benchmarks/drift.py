"""How quiet the drift alarm is where nothing drifts, and how soon it rings where something does.

    python -m tests.benchmarks.drift [--repeats 100] [--rows 100000] [--held-out 600]

Only the order of scores counts, so that normal ones stand for any that have no ties. Each repeat has held-out scores
of its own.
"""

import argparse
import math
from collections.abc import Callable

import numpy as np

from service.bundle import Array
from service.scoring import FALSE_ALARMS, Martingale

ALARM = math.log(1 / FALSE_ALARMS)
PATIENCE = 20_000
"""Rows after a change at which waiting ends."""

Change = Callable[[np.random.Generator, int], Array]

CHANGES: dict[str, Change] = {
    "all scores larger by 0.25 sd": lambda random, rows: random.normal(0.25, size=rows),
    "all scores larger by 0.5 sd": lambda random, rows: random.normal(0.5, size=rows),
    "all scores smaller by 0.5 sd": lambda random, rows: random.normal(-0.5, size=rows),
    "5 % of the rows extreme": lambda random, rows: np.where(random.random(rows) < 0.05, 9.0, random.normal(size=rows)),
}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--held-out", type=int, default=600)
    given = parser.parse_args()
    quiet, largest = 0, 0.0
    for repeat in range(given.repeats):
        martingale, random = _fresh(given.held_out, repeat)
        martingale.update(random.normal(size=given.rows))
        quiet += martingale.log_maximum < ALARM
        largest = max(largest, math.exp(martingale.log_maximum))
    print(f"{given.held_out} held-out rows, alarm at a capital of {1 / FALSE_ALARMS:g} (α = {FALSE_ALARMS:.0%})\n")
    print(f"quiet over {given.rows:,} rows: {quiet} of {given.repeats}; largest capital {largest:.2f}\n")
    print("| change | rows before it | alarms | rows until the alarm: median | 90 % | most |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, change in CHANGES.items():
        for before in (0, 1_000, 10_000, 100_000):
            delays = [_delay(change, before, given.held_out, repeat) for repeat in range(given.repeats)]
            rang = sorted(delay for delay in delays if delay < PATIENCE)
            figures = [f"{np.quantile(delays, q):,.0f}" for q in (0.5, 0.9, 1)]
            shown = [figure if figure != f"{PATIENCE:,}" else "never" for figure in figures]
            print(f"| {name} | {before:,} | {len(rang)} of {len(delays)} | {' | '.join(shown)} |")


def _fresh(held_out: int, repeat: int) -> tuple[Martingale, np.random.Generator]:
    random = np.random.default_rng(repeat)
    return Martingale(np.sort(random.normal(size=held_out))), random


def _delay(change: Change, before: int, held_out: int, repeat: int) -> int:
    """Rows from the change to the alarm."""
    martingale, random = _fresh(held_out, repeat)
    martingale.update(random.normal(size=before))
    for rows in range(PATIENCE):
        if martingale.log_maximum >= ALARM:
            return rows
        martingale.update(change(random, 1))
    return PATIENCE


if __name__ == "__main__":
    main()
