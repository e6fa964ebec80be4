"""Tables of hard shapes, generated: extreme scales, heavy tails, constants, holes, few and many rows and columns."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

Column = Callable[[np.random.Generator, int], list[object]]


def _numbers(scale: float, tail: float = 0.0) -> Column:
    def make(rng: np.random.Generator, rows: int) -> list[object]:
        return list(scale * rng.normal(size=rows) * np.exp(tail * rng.normal(size=rows)))

    return make


COLUMNS: dict[str, Column] = {
    "tiny": _numbers(1e-30),
    "huge": _numbers(1e12),
    "heavy": _numbers(1.0, 4.0),
    "count": lambda rng, rows: list(rng.poisson(3, rows)),
    "constant": lambda rng, rows: [7] * rows,
    "word": lambda rng, rows: ["EUR"] * rows,
    "missing": lambda rng, rows: [None] * rows,
    "holes": lambda rng, rows: [None if rng.random() < 0.9 else rng.normal() for _ in range(rows)],
    "flag": lambda rng, rows: [bool(value) for value in rng.random(rows) < 0.5],
    "shop": lambda rng, rows: [f"shop {value}" for value in rng.integers(0, 200, rows)],
    "id": lambda rng, rows: [f"x{value}" for value in rng.permutation(rows)],
    "money": lambda rng, rows: [f"€{value:,.2f}" for value in 1e4 * rng.random(rows)],
    "percent": lambda rng, rows: [f"{value:.1f}%" for value in 100 * rng.random(rows)],
    "day": lambda rng, rows: [f"2026-{1 + value % 12:02}-{1 + value % 28:02}" for value in rng.integers(0, 999, rows)],
    "mixed": lambda rng, rows: [value if value % 2 else f"n{value}" for value in rng.integers(0, 9, rows)],
    "sentinel": lambda rng, rows: [9999999999 if rng.random() < 0.01 else rng.normal() for _ in range(rows)],
    "infinite": lambda rng, rows: ["inf" if rng.random() < 0.01 else rng.normal() for _ in range(rows)],
    "long": lambda rng, rows: [2**53 + 1 + int(value) for value in rng.integers(0, 2**60, rows)],
    "broken": lambda rng, rows: ["oops" if n == 3 else rng.normal() for n in range(rows)],
    "comma": lambda rng, rows: [f"{value:.2f}".replace(".", ",") for value in rng.normal(size=rows)],
}
NUM_TABLES = 20


def generate(seed: int, rows: int | None = None) -> pd.DataFrame:
    """Make a table: columns of random kinds, some rows twice; every fifth seed has hundreds of columns.

    Args:
        seed: Of everything.
        rows: How many there are; from 30 to 3,000 if not given.
    """
    rng = np.random.default_rng(seed)
    rows = rows or int(rng.choice([30, 100, 600, 3000]))
    width = 300 if seed % 5 == 4 else int(rng.integers(2, 12))
    kinds = rng.choice(list(COLUMNS), width)
    frame = pd.DataFrame(
        {f"{kind}_{i}": pd.Series(COLUMNS[kind](rng, rows), dtype=object) for i, kind in enumerate(kinds)}
    )
    copies = rng.integers(0, rows, rows // 10)
    frame.iloc[: len(copies)] = frame.iloc[copies].to_numpy()
    return frame


def write(frame: pd.DataFrame, path: Path) -> Path:
    """Write a generated table as CSV."""
    frame.to_csv(path, index=False)
    return path
