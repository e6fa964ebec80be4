"""Attribution: a table's row with one cell alone as the model expects it from the others.

How much the ELBO rises by that says how strange the cell is. Both bounds are of whole rows, which the encoder knows,
and in the same units, so that nats of numbers and of categories compare. If the bound is log p(x), the rise is log
p(x̂_d | x_others) − log p(x_d | x_others): for a Gaussian, half the squared z-score of the cell given the others. The
cells' own log-likelihoods do not say that: a wrong cell pulls the posterior, and the cells that go with it pay.
"""

from collections.abc import Iterator

import numpy as np

from service.bundle import Array, NumericColumn, TabularInput

ROUNDS = 3
"""Times that the cell is expected anew, from the row with what was expected before. An encoder that has never seen the
cell missing takes it for a mean at first."""


class ConditionalAttribution:
    """Rows, once for each of some columns, that column's cell missing until it is filled.

    `ROUNDS` times, encode `rows` and `fill` them with what their posteriors' means decode to. A number is the nearest
    that its column has in the training rows, so that no age below zero is expected.

    Args:
        x: Rows of a table, (batch, D).
        columns: The numbers of C columns.
        data: All columns.
    """

    def __init__(self, x: Array, columns: range, data: TabularInput) -> None:
        self._x = x
        self._ranges = [
            column.training_range if isinstance(column, NumericColumn) else None
            for column in data.columns[columns.start : columns.stop]
        ]
        self._copies = np.repeat(x[None], len(columns), axis=0)
        self._cells = np.arange(len(columns))[:, None], np.arange(len(x)), np.array(columns)[:, None]
        self._copies[self._cells] = np.nan

    @classmethod
    def of(cls, x: Array, at_once: int, data: TabularInput) -> "Iterator[ConditionalAttribution]":
        """Those of all columns in turn, of at most so many rows each where the batch is not itself larger."""
        columns = range(x.shape[1])
        size = max(1, at_once // len(x))
        return (cls(x, columns[start : start + size], data) for start in columns[::size])

    @property
    def rows(self) -> Array:
        """The rows for the graphs, (C × batch, D)."""
        return self._copies.reshape(-1, self._x.shape[1])

    @property
    def expected(self) -> Array:
        """The values now in the cells, (batch, C), in data units; a category as its code."""
        return np.asarray(self._copies[self._cells].T)

    def fill(self, x_mean: Array) -> None:
        """Take each row's cell from E[x|z], (C × batch, D)."""
        cells = x_mean.reshape(self._copies.shape)[self._cells]
        for i, numbers in enumerate(self._ranges):
            if numbers:
                cells[i] = numbers.nearest(cells[i])
        self._copies[self._cells] = cells

    def surprise(self, elbo: Array, filled: Array) -> Array:
        """By how many nats the ELBO rises when a cell is filled, (batch, C); 0 where it is missing in the row itself.

        Args:
            elbo: Of the rows, (batch,).
            filled: Of `rows`, (C × batch,).
        """
        rise = filled.reshape(-1, len(elbo)).T - elbo[:, None]
        missing = np.isnan(self._x[self._cells[1:]].T)
        return np.where(missing, 0.0, rise)
