"""Cells are expected as numbers that their columns could have."""

import numpy as np

from service.bundle import CategoricalColumn, NumericColumn, TabularInput
from service.bundle.inputs import TrainingRange
from service.scoring import ConditionalAttribution

DATA = TabularInput(
    columns=(
        NumericColumn(name="free"),
        CategoricalColumn(name="city", categories=("Bergen", "Oslo")),
        NumericColumn(name="age", training_range=TrainingRange(low=18, high=88, step=1)),
        NumericColumn(name="stars", training_range=TrainingRange(low=1, high=5, values=(1, 3, 5))),
    )
)


def test_no_age_below_zero_is_expected() -> None:
    x = np.array([[0.5, 1, 20, 3], [7.5, 0, 30, np.nan]])
    decoded = np.array([[-0.25, 1.0, -3.2, 4.2], [9.75, 0.0, 41.6, 9.0]])
    expected = []
    for cells in ConditionalAttribution.of(x, 2 * len(x), DATA):
        cells.fill(np.tile(decoded, (len(cells.rows) // 2, 1)))
        expected.append(cells.expected)
    np.testing.assert_array_equal(np.concatenate(expected, 1), [[-0.25, 1, 18, 5], [9.75, 0, 42, 5]])


def test_a_cell_surprises_by_the_rise_of_the_bound_unless_it_is_missing() -> None:
    x = np.array([[1.0, np.nan], [2.0, 1], [4.0, 0]])
    cells = ConditionalAttribution(x, range(2), TabularInput(columns=DATA.columns[:2]))
    elbo, filled = np.array([-1.0, -2.0, -3.0]), np.array([0.0, -1.5, -4.0, 9.0, -1.0, -3.0])
    np.testing.assert_array_equal(cells.surprise(elbo, filled), [[1, 0], [0.5, 1], [-1, 0]])
