"""Ranges of training rows, and samples that keep to them."""

import numpy as np
import pytest

from service.bundle import CategoricalColumn, Derived, NumericColumn, TabularInput, TimeFormat
from service.readers import possible_rows
from training.model.ranges import training_range, with_ranges

DAY = 86_400.0


@pytest.mark.parametrize(
    ("cells", "low", "high", "step", "values"),
    [
        ([0, 3, 1, np.nan, 7], 0, 7, 1, ()),
        ([0.1, 0.3, 0.25, 7.0], 0.1, 7.0, 0.05, ()),
        ([0.5, 1.5, 3.5], 0.5, 3.5, 1, ()),
        ([10 * DAY, 3 * DAY, 4 * DAY], 3 * DAY, 10 * DAY, DAY, ()),
        ([1, 2, 9_999_999_999], 1, 9_999_999_999, 1, ()),
        (np.geomspace(1, 2, 50), 1, 2, None, ()),
        ([1e300, -1e300], -1e300, 1e300, None, ()),
        ([4.5, 4.5], 4.5, 4.5, None, ()),
        ([1, 2, 4, 8, 16] * 10, 1, 16, 1, (1, 2, 4, 8, 16)),
        ([1, 2, 3, 4] * 10, 1, 4, 1, ()),
        ([1, 2, 4, 8, 16] * 9, 1, 16, 1, ()),
    ],
)
def test_ranges(cells: list[float], low: float, high: float, step: float | None, values: tuple[float, ...]) -> None:
    found = training_range(np.array(cells, np.float64))
    assert found
    assert (found.low, found.high, found.step, found.values) == (low, high, step, values)


def test_a_column_without_cells_has_no_range() -> None:
    assert training_range(np.array([np.nan, np.nan])) is None


def test_made_up_rows_could_exist() -> None:
    """Numbers lie among those of the training rows, to the last digit; derived columns agree with their dates."""
    rng = np.random.default_rng(0)
    n = 2_000
    days = 20_000 * DAY + 3_600 * rng.integers(0, 24 * 365, n).astype(float)
    rows = np.stack([rng.integers(18, 90, n), rng.exponential(50, n).round(2), days, days % DAY / 3_600, days * 0], 1)
    rows[::7, 0] = np.nan
    data = with_ranges(
        TabularInput(
            columns=(
                NumericColumn(name="age"),
                NumericColumn(name="paid"),
                NumericColumn(name="when", time=TimeFormat(order="ymd")),
                NumericColumn(name="when.hour", period=24, derived=Derived(source="when", part="hour")),
                CategoricalColumn(name="kind", categories=("a", "b")),
            )
        ),
        rows,
    )
    drawn = rng.standard_normal((n, 5)) * [500, 5_000, 1e9, 30, 0] + [40, 0, 20_100 * DAY, 12, 1]
    made = possible_rows(drawn, data)
    assert set(made[:, 0]) <= set(range(18, 90))
    assert np.isin(made[:, 1], [float(f"{cents / 100:.2f}") for cents in range(int(rows[:, 1].max() * 100) + 1)]).all()
    assert (made[:, 2] % 3_600 == 0).all()
    np.testing.assert_array_equal(made[:, 3], made[:, 2] % DAY / 3_600)
    np.testing.assert_array_equal(made[:, 4], drawn[:, 4])
    inside = (drawn[:, 1] >= rows[:, 1].min()) & (drawn[:, 1] <= rows[:, 1].max())
    assert np.abs(made - drawn)[inside, 1].max() <= 0.005 + 1e-9
    np.testing.assert_array_equal(possible_rows(rows, data), rows)
