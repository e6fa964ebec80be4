"""Rows that a model makes up, as rows that could exist."""

import numpy as np
import numpy.typing as npt

from service.bundle import NumericColumn, TabularInput
from service.readers.times import derive_columns


def possible_rows(x: npt.NDArray[np.float64], data: TabularInput) -> npt.NDArray[np.float64]:
    """Move each number to the nearest that its column may have, and compute derived columns from their dates.

    A density has tails: a Gaussian around an age gives ages below zero, and no whole years. Synthesizers of tables clip
    and round in the same way (Patki et al. 2016, "The Synthetic Data Vault").

    Args:
        x: Rows in data units, (batch, columns).
        data: The columns.

    Returns:
        The rows, a new array of the same shape.
    """
    rows = x.copy()
    for i, column in enumerate(data.columns):
        if isinstance(column, NumericColumn) and column.training_range:
            rows[:, i] = column.training_range.nearest(rows[:, i])
    derive_columns(rows, data)
    return rows
