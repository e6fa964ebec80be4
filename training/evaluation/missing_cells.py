"""Held-out scores for rows with missing cells, pattern by pattern; see `service.scoring.missing_cells`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from service.bundle import Array
from service.scoring.missing_cells import FEWEST, SAME, pattern_keys

PATTERNS = 128
"""At most so many patterns have scores of their own."""

ROWS = 499
"""At most so many held-out rows have cells hidden for one pattern; p-values then reach 0.2 %."""

OFTEN = 0.02
"""A column often lacks cells if this share of the held-out rows lacks its cell."""

_SEED = 0
"""Of the choice among more rows than that."""


@dataclass(frozen=True, eq=False)
class _Group:
    """The held-out rows, by number, that rows of a pattern, bool (D,), are compared with."""

    pattern: Array
    rows: Array
    hides: bool
    """Whether some of these rows have cells that the pattern lacks."""


def missing_cell_scores(
    score: Callable[[Array], Mapping[str, Array]], held_out: Array, own: Mapping[str, Array]
) -> dict[str, Array]:
    """The arrays of a bundle's `MISSING_CELLS`, see `service.bundle`; empty where no row could be compared with any.

    Args:
        score: Rows (N, D) → scores by name, each (N,). Patterns that take hidden cells have no p-values by other scores
            (the regret, whose refinement takes too long).
        held_out: The calibration rows of a table, raw, (n, D).
        own: The calibrated scores of these rows, by name, each (n,), in the rows' order.
    """
    missing = np.isnan(held_out)
    groups = _by_pattern(missing)
    by_count = _by_count(missing, groups)
    if not groups and not by_count:
        return {}
    hidden = [np.where(group.pattern, np.nan, held_out[group.rows]) for group in groups if group.hides]
    made = score(np.concatenate(hidden)) if hidden else {}
    stored = {
        "patterns": np.array([group.pattern for group in groups]).reshape(-1, missing.shape[1]),
        "counts": np.array([*by_count], np.int64),
        "often": missing.mean(0) >= OFTEN,
    }
    ends = np.cumsum([len(rows) for rows in hidden])
    for name, values in own.items():
        computed = iter(np.split(made[name], ends[:-1])) if name in made else None
        segments = [
            values[group.rows] if not group.hides else next(computed) if computed else values[:0] for group in groups
        ]
        segments += [values[rows] for rows in by_count.values()]
        stored[f"{name}.sizes"] = np.array([len(segment) for segment in segments])
        stored[name] = np.concatenate([_sorted(segment) for segment in segments])
    return stored


def _sorted(scores: Array) -> Array:
    """Ascending; a row without a finite bound is as strange as can be."""
    return np.sort(np.where(np.isnan(scores), np.inf, scores))


def _by_pattern(missing: Array) -> list[_Group]:
    """The patterns that have scores of their own, and the rows that they are compared with."""
    order = np.random.default_rng(_SEED).permutation(len(missing))
    groups = [_group(pattern, missing, order) for pattern in _patterns(missing)]
    # Rows without missing cells are compared with all held-out rows unless the file says otherwise.
    return [g for g in groups if (_enough(len(g.rows), len(missing)) if g.pattern.any() else missing.any())]


def _group(pattern: Array, missing: Array, order: Array) -> _Group:
    same = np.flatnonzero((missing == pattern).all(1))
    comparable = order[~(missing & ~pattern)[order].any(1)]
    hides = len(same) < min(SAME, len(comparable))
    rows = comparable[:ROWS] if hides else same
    return _Group(pattern, rows if _enough(len(rows), len(missing)) else rows[:0], hides)


def _enough(rows: int, held_out: int) -> bool:
    return rows >= min(FEWEST, held_out)


def _patterns(missing: Array) -> list[Array]:
    """Patterns to expect, bool (D,) each, at most `PATTERNS`.

    First no missing cell and the patterns of many held-out rows; these with one cell more, with two more and so on, as
    long as there is room for all with so many more; then the other patterns of held-out rows, the most frequent first.
    """
    columns = missing.shape[1]
    found, counts = np.unique(missing, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    many = np.concatenate([np.zeros((1, columns), bool), found[order][counts[order] >= SAME][: PATTERNS - 1]])
    chosen = dict(zip(pattern_keys(many), many, strict=True))
    for more in range(1, columns + 1):
        if math.comb(columns, more) > PATTERNS:
            break
        cells = np.array([np.isin(np.arange(columns), places) for places in combinations(range(columns), more)])
        wider = np.concatenate([pattern | cells for pattern in many])
        candidates = chosen | dict(zip(pattern_keys(wider), wider, strict=True))
        if len(candidates) > PATTERNS:
            break
        chosen = candidates
    for key, pattern in zip(pattern_keys(found[order]), found[order], strict=True):
        if len(chosen) < PATTERNS:
            chosen.setdefault(key, pattern)
    return list(chosen.values())


def _by_count(missing: Array, groups: list[_Group]) -> dict[int, Array]:
    """By the number of missing cells, the rows with so many that have none of the groups' patterns."""
    known = set(pattern_keys(np.array([group.pattern for group in groups]))) if groups else set()
    others = np.array([key not in known for key in pattern_keys(missing)])
    others &= ~(missing & ~(missing.mean(0) >= OFTEN)).any(1)
    number = missing.sum(1)
    rows = {int(count): np.flatnonzero(others & (number == count)) for count in np.unique(number[others])}
    return {count: chosen for count, chosen in rows.items() if count and len(chosen) >= FEWEST}
