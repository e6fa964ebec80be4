"""P-values of a table's rows with missing cells: each row is compared with held-out rows that lack the same cells.

A bound on fewer cells is another score, so held-out bounds on all cells say nothing about it. Write m for the set of
cells that a row lacks, its pattern, and M_i for that of held-out row i. The row is compared with

1. the held-out rows with M_i = m, if there are at least `SAME`. For any cause of missing cells, these rows are
   exchangeable with a new one of the same pattern, so the p-value is valid given the pattern;

2. else the held-out rows with M_i ⊆ m, with the cells of m hidden: all of them then have the pattern m exactly (missing
   data augmentation: Zaffran et al. 2023, CP-MDA-Exact). The p-value is valid given the pattern if cells go missing
   completely at random, that is, independently of the values in the row;

3. else the held-out rows that lack as many cells, as they are, if m has only columns that lack cells often. The p-value
   is valid on average over the rows with that many missing cells, if requests lack cells as the held-out rows do;

4. else with none: the p-value is NaN.

Fewer than `FEWEST` rows are never compared with. The trainer computes the scores of the patterns that it expects, so
a p-value depends on the row alone, and the bundle has no row of the data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from service.bundle import Array
from service.scoring.conformal import p_values

SAME = 99
"""Held-out rows of the same pattern that make others needless: p-values then reach 1 %."""

FEWEST = 19
"""Held-out rows that a p-value takes at least: with fewer it could not be 5 %."""


@dataclass(frozen=True, eq=False)
class HeldOutScores:
    """Held-out rows by one score, each array sorted ascending.

    Attributes:
        complete: What rows without missing cells are compared with; None where there are too few held-out rows.
        by_pattern: What rows of a pattern are compared with, by its key, see `pattern_keys`; empty: with nothing.
        by_count: What rows with so many missing cells are compared with, all in columns that often lack cells.
        often: Which columns these are, bool (D,).
    """

    complete: Array | None
    by_pattern: Mapping[bytes, Array] = field(default_factory=dict)
    by_count: Mapping[int, Array] = field(default_factory=dict)
    often: Array = field(default_factory=lambda: np.zeros(0, bool))

    @classmethod
    def read(cls, score: str, all_scores: Array, stored: Mapping[str, Array]) -> Self:
        """The held-out rows of a bundle by one of its scores.

        Args:
            score: Its name.
            all_scores: The scores of all held-out rows as they are, sorted ascending, (n,).
            stored: The arrays of the bundle's `MISSING_CELLS`; empty where it has no such file.
        """
        if not stored:
            return cls(all_scores)
        patterns = stored["patterns"]
        segments = stored_segments(stored, score)
        by_pattern = dict(zip(pattern_keys(patterns), segments[: len(patterns)], strict=True))
        by_count = dict(zip(stored["counts"].tolist(), segments[len(patterns) :], strict=True))
        (nothing,) = pattern_keys(np.zeros((1, patterns.shape[1]), bool))
        complete = by_pattern.pop(nothing, all_scores)
        return cls(complete if complete.size else None, by_pattern, by_count, stored["often"])

    def p_values(self, scores: Array, x: Array) -> npt.NDArray[np.float64]:
        """Conformal p-values of rows.

        Args:
            scores: Of the rows, (batch,).
            x: The rows as the graphs take them, (batch, *shape).

        Returns:
            (batch,), NaN where a row can be compared with no held-out rows.
        """
        return self.with_missing(self.without_missing(scores), scores, x)

    def without_missing(self, scores: Array) -> npt.NDArray[np.float64]:
        """The p-values of rows without missing cells, (batch,)."""
        return np.full(scores.shape, np.nan) if self.complete is None else p_values(scores, self.complete)

    def with_missing(self, p: npt.NDArray[np.float64], scores: Array, x: Array) -> npt.NDArray[np.float64]:
        """The p-values of rows of which some may lack cells; `p` are those by `without_missing`."""
        if x.ndim != 2 or x.dtype.kind != "f":  # Images.
            return p
        missing = np.isnan(x)
        incomplete = np.flatnonzero(missing.any(1))
        if not incomplete.size:
            return p
        rows_by_key: dict[bytes, list[int]] = {}
        for row, key in zip(incomplete.tolist(), pattern_keys(missing[incomplete]), strict=True):
            rows_by_key.setdefault(key, []).append(row)
        p = p.copy()
        for key, rows in rows_by_key.items():
            held_out = self._comparable(key, missing[rows[0]])
            p[rows] = np.nan if held_out is None else p_values(scores[rows], held_out)
        return p

    def _comparable(self, key: bytes, pattern: Array) -> Array | None:
        """The held-out scores that those of rows with this pattern are compared with."""
        held_out = self.by_pattern.get(key)
        if held_out is None and self.often.size and not (pattern & ~self.often).any():
            held_out = self.by_count.get(int(pattern.sum()))
        return None if held_out is None or not held_out.size else held_out


def pattern_keys(missing: Array) -> list[bytes]:
    """A key for each row of `missing`, bool (rows, D): rows that lack the same cells have the same key."""
    return [row.tobytes() for row in np.packbits(missing, axis=1)]


def stored_segments(stored: Mapping[str, Array], score: str) -> list[Array]:
    """The scores that each pattern, and then each count, of a bundle's `MISSING_CELLS` is compared with."""
    return np.split(stored[score], np.cumsum(stored[f"{score}.sizes"])[:-1])
