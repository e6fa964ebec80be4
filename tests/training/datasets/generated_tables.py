"""Tables of hard shapes, generated: extreme scales, heavy tails, constants, holes, few and many rows and columns."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

Column = Callable[[np.random.Generator, int], list[object]]
Table = Callable[[np.random.Generator], pd.DataFrame]


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


def _frame(rows: int, **columns: Column) -> Table:
    return lambda rng: pd.DataFrame({name: make(rng, rows) for name, make in columns.items()})


def _three(rows: int, make: Column) -> Table:
    return _frame(rows, a=make, b=_numbers(1.0), c=_numbers(1.0))


def _wide(rng: np.random.Generator) -> pd.DataFrame:
    """2,000 columns, which are two random ones in different units."""
    scales = np.logspace(-30, 12, 2000)
    rows = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 2000)) + 0.1 * rng.normal(size=(200, 2000))
    return pd.DataFrame(rows * scales, columns=[f"x{i}" for i in range(2000)])


def _repeated(rng: np.random.Generator) -> pd.DataFrame:
    return pd.DataFrame(rng.normal(size=(20, 3)), columns=list("abc")).sample(600, replace=True, random_state=0)


def _one_fact(rng: np.random.Generator) -> pd.DataFrame:
    value = rng.normal(size=600)
    return pd.DataFrame({"a": value, "b": -1e12 * value, "c": 1e-9 * value + 5})


HARD: dict[str, Table] = {
    "tiny": _three(600, _numbers(1e-30)),
    "huge": _three(600, _numbers(1e12)),
    "heavy": _three(600, _numbers(1.0, 4.0)),
    "counts": _three(600, COLUMNS["count"]),
    "sentinels": _three(600, COLUMNS["sentinel"]),
    "money": _three(600, COLUMNS["money"]),
    "days": _three(600, COLUMNS["day"]),
    "far from zero": _three(600, lambda rng, rows: list(1e9 + rng.normal(size=rows))),
    "mostly zero": _three(600, lambda rng, rows: list(np.where(rng.random(rows) < 0.99, 0.0, rng.normal(size=rows)))),
    "few rows": _three(30, _numbers(1.0)),
    "one row for each part": _three(4, _numbers(1.0)),
    "texts alone": _frame(
        600,
        a=lambda rng, rows: list(rng.choice(["Bonn", "Kiel", "Köln"], rows)),
        b=lambda rng, rows: list(rng.choice(["in", "out"], rows)),
    ),
    "many rows": _three(100_000, COLUMNS["sentinel"]),
    "repeated": _repeated,
    "one fact": _one_fact,
    "beside nothing": _frame(
        600,
        a=_numbers(1.0),
        b=_numbers(1.0),
        c=_numbers(1.0),
        d=COLUMNS["constant"],
        e=COLUMNS["id"],
        f=COLUMNS["missing"],
    ),
    "holes": _frame(600, a=COLUMNS["holes"], b=COLUMNS["shop"], c=COLUMNS["flag"]),
    "infinite": _frame(600, a=COLUMNS["infinite"], b=COLUMNS["shop"], c=COLUMNS["flag"]),
    "one category": _frame(600, a=COLUMNS["word"], b=COLUMNS["missing"], c=COLUMNS["constant"]),
    "long numbers": _frame(600, id=COLUMNS["long"], a=_numbers(1e-9), b=_numbers(1.0), c=_numbers(1.0)),
    "broken": _frame(600, a=COLUMNS["broken"], b=_numbers(1.0)),
    "wide": _wide,
}
"""Tables that are trained on, served and scored; many have the same structure, and so the same graphs."""
