"""The numbers that each column of a table may have in a sample, from its training rows."""

from typing import Any

import numpy as np
import numpy.typing as npt

from service.bundle import NumericColumn, TabularInput, TrainingRange

MOST_DECIMALS = 6
FEW_VALUES = 16
REPEATS = 10
"""Cells for each different number, on average, from which few numbers are no accident."""


def with_ranges(data: TabularInput, rows: npt.NDArray[Any]) -> TabularInput:
    """The columns with the ranges of their training rows, (N, columns), NaN where missing."""
    columns = [
        column.model_copy(update={"training_range": training_range(np.asarray(cells, np.float64))})
        if isinstance(column, NumericColumn)
        else column
        for column, cells in zip(data.columns, rows.T, strict=True)
    ]
    return data.model_copy(update={"columns": tuple(columns)})


def training_range(cells: npt.NDArray[np.float64]) -> TrainingRange | None:
    """The range of a column's cells, (N,), NaN where missing; None where all are."""
    observed = cells[~np.isnan(cells)]
    if not observed.size:
        return None
    values = np.unique(observed)
    low, high, step = float(values[0]), float(values[-1]), _step(values)
    few = 1 < len(values) <= min(FEW_VALUES, len(observed) // REPEATS)
    gaps = step is None or round((high - low) / step) + 1 > len(values)
    return TrainingRange(low=low, high=high, step=step, values=tuple(values.tolist()) if few and gaps else ())


def _step(values: npt.NDArray[np.float64]) -> float | None:
    """The greatest step between decimal numbers, ascending; None of a constant, or where they have many decimals."""
    for decimals in range(MOST_DECIMALS + 1):
        whole = np.rint(values * 10.0**decimals)
        if np.abs(whole).max() >= 2**53:
            return None
        if np.allclose(values, whole / 10.0**decimals, rtol=1e-12, atol=0.0):
            step = int(np.gcd.reduce(np.diff(whole.astype(np.int64))))
            return round(step / 10**decimals, decimals) if step else None
    return None
