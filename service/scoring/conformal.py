"""Scores, and what they mean: conformal p-values against held-out normal data.

Every score is a function of one row; larger is more anomalous.
"""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from service.bundle import SCORES, Array

ROUNDING = 1 + 1e-12
"""A p-value may exceed its limit by this factor: 0.1 · 43 / 43 is less than 0.1 in floating point."""


def scores(columns: Mapping[str, Array]) -> dict[str, Array]:
    """Every score that these columns are enough for, each in the shape of its column."""
    return {name: sign * columns[column] for name, (column, sign) in SCORES.items() if column in columns}


def p_values(scores: Array, held_out: Array) -> npt.NDArray[np.float64]:
    """Split-conformal p-values (Vovk et al. 2005; Bates et al. 2023, eq. 2): (1 + #{held-out ≥ score}) / (n + 1).

    If a row is exchangeable with the held-out rows, its p-value is at most α with probability at most α, for every α;
    the smallest possible value is 1 / (n + 1).

    Args:
        scores: Any shape; NaN is the strangest.
        held_out: Scores of n held-out normal rows, sorted ascending, shape (n,).

    Returns:
        One p-value in (0, 1] for each score, in the shape of `scores`.
    """
    less = held_out.searchsorted(scores, side="left")
    return np.asarray((held_out.size + 1 - less) / (held_out.size + 1), np.float64)


def percentiles(held_out: Array) -> list[float]:
    """The quantiles of held-out scores at 0, 1, ..., 100 %: what a client needs to draw how they are distributed.

    Args:
        held_out: Scores of n held-out normal rows, sorted ascending, shape (n,).
    """
    return [float(quantile) for quantile in np.quantile(held_out, np.linspace(0, 1, 101))]


def why_none(p: npt.NDArray[np.float64], fdr: float, held_out: int) -> str:
    """Why `discoveries` calls no row: what the p-values of so many held-out rows could reach at most.

    Args:
        p: P-values of rows, shape (batch,), of which those that are not NaN are the m rows.
        fdr: The share of false calls allowed.
        held_out: How many held-out rows the p-values compare with.
    """
    rows, smallest = int(np.count_nonzero(~np.isnan(p))), 1 / (held_out + 1)
    if not rows:
        return "no row has a p-value"
    least = f"with {held_out:,} held-out rows no p-value is below {smallest:.2g}"
    if smallest > fdr * ROUNDING:
        return f"{least}; at q = {fdr:g} no row can be called: it takes a larger q or more held-out rows"
    needed, found = math.ceil(rows * smallest / (fdr * ROUNDING)), int(np.count_nonzero(p <= smallest))
    return (
        f"{least}; at q = {fdr:g} and {_count(rows)} at least {_count(needed)} must be that strange, "
        f"and {found:,} {'is' if found == 1 else 'are'}"
    )


def _count(rows: int) -> str:
    return f"{rows:,} {'row' if rows == 1 else 'rows'}"


def discoveries(p: npt.NDArray[np.float64], fdr: float) -> npt.NDArray[np.bool_]:
    """Which rows to call anomalous so that the expected share of false calls among them is at most `fdr`.

    Benjamini and Hochberg's (1995) step-up rule: the k rows of the smallest p-values, for the largest k whose k-th
    p-value is at most k·fdr/m. Conformal p-values that share their held-out rows are positively dependent in the way
    that keeps the bound (Bates et al. 2023, theorem 2): on average over held-out rows, not for each set of them.

    Args:
        p: P-values of rows, shape (batch,), of which those that are not NaN are the m rows.
        fdr: The share allowed, between 0 and 1.
    """
    ascending = np.sort(p[~np.isnan(p)])
    passing = np.flatnonzero(ascending <= fdr * ROUNDING * np.arange(1, ascending.size + 1) / ascending.size)
    return np.asarray(p <= ascending[passing[-1]] if passing.size else np.zeros(p.shape), np.bool_)
