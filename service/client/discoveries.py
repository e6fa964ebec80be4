"""Control of false discoveries among rows that took several requests."""

import math
from typing import Any

import numpy as np

ROUNDING = 1 + 1e-12
"""A p-value may exceed its limit by this factor: 0.1 · 43 / 43 is less than 0.1 in floating point."""


class NoDiscoveryWarning(UserWarning):
    """No row is called anomalous. The text says what is missing."""


def discoveries(p: np.ndarray[Any, Any], fdr: float) -> np.ndarray[Any, Any]:
    """Benjamini and Hochberg's (1995) step-up rule over all rows, as the service applies it to those of a request.

    Args:
        p: P-values, (rows,), NaN where a row has none.
        fdr: The share of false calls allowed, between 0 and 1.
    """
    ascending = np.sort(p[~np.isnan(p)])
    passing = np.flatnonzero(ascending <= fdr * ROUNDING * np.arange(1, ascending.size + 1) / ascending.size)
    return p <= ascending[passing[-1]] if passing.size else np.zeros(p.shape, np.bool_)


def why_none(p: np.ndarray[Any, Any], fdr: float, held_out: int) -> str:
    """Why `discoveries` calls no row: what p-values against so many held-out rows can reach at most."""
    rows, smallest = int(np.count_nonzero(~np.isnan(p))), 1 / (held_out + 1)
    if not rows:
        return "no row is called anomalous: none has a p-value"
    least = f"no row is called anomalous: with {held_out:,} held-out rows no p-value is below {smallest:.2g}"
    if smallest > fdr * ROUNDING:
        return f"{least}; at fdr={fdr:g} no row can be called: it takes a larger fdr or more held-out rows"
    needed, found = math.ceil(rows * smallest / (fdr * ROUNDING)), int(np.count_nonzero(p <= smallest))
    strange = f"at least {needed:,} must be that strange, and {found:,} are"
    return f"{least}; at fdr={fdr:g} and {rows:,} rows {strange}"
