"""Control of false discoveries among rows that took several requests."""

from typing import Any

import numpy as np


def discoveries(p: np.ndarray[Any, Any], fdr: float) -> np.ndarray[Any, Any]:
    """Benjamini and Hochberg's (1995) step-up rule over all rows, as the service applies it to those of a request.

    Args:
        p: P-values, (rows,), NaN where a row has none.
        fdr: The share of false calls allowed, between 0 and 1.
    """
    ascending = np.sort(p[~np.isnan(p)])
    passing = np.flatnonzero(ascending <= fdr * np.arange(1, ascending.size + 1) / max(ascending.size, 1))
    return p <= ascending[passing[-1]] if passing.size else np.zeros(p.shape, np.bool_)
