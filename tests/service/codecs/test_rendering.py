"""Answers have values by column name, as clients gave them, and pictures show every instance once."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.bundle import ImageInput
from service.codecs.rendering import picture, render_by_column, render_records
from tests.service.codecs.schemas import COLOUR, GREY, SMOOTH, TABLE


def test_categories_are_rendered_as_they_were_given() -> None:
    records = render_records(np.array([[0.5, code, 1] for code in range(6)]), TABLE)
    kinds = [record["kind"] for record in records]
    assert [(type(kind), kind) for kind in kinds] == [
        (str, "a"),
        (int, 1),
        (bool, True),
        (float, 2.5),
        (str, "1"),
        (int, 0),
    ]


def test_numbers_by_cell_are_rendered_by_column() -> None:
    assert render_by_column(np.array([[1.0, 2.0, 3.0]]), TABLE) == [{"age": 1.0, "kind": 2.0, "a.b[0]": 3.0}]


@given(n=st.integers(1, 30), data=st.sampled_from([GREY, COLOUR, SMOOTH]))
def test_the_grid_holds_every_instance_once(n: int, data: ImageInput) -> None:
    x = np.random.default_rng(n).uniform(data.low, data.high, (n, *data.shape))
    grid = picture(x, data)
    columns = math.isqrt(n - 1) + 1
    rows = -(-n // columns)
    height, width = data.shape[:2]
    assert grid.dtype == np.uint8
    assert grid.shape == (rows * height, columns * width, *data.shape[2:])
    for i in range(rows * columns):
        row, column = divmod(i, columns)
        tile = grid[row * height : (row + 1) * height, column * width : (column + 1) * width]
        expected = np.round(255 * (x[i] - data.low) / (data.high - data.low)) if i < n else np.zeros(data.shape)
        np.testing.assert_array_equal(tile, expected)


def test_black_is_low_and_white_is_high() -> None:
    assert picture(np.full((1, 2, 3), -1.0), SMOOTH).max() == 0
    assert picture(np.full((1, 2, 3), 1.0), SMOOTH).min() == 255
    assert picture(np.full((1, 2, 3), 99.0), SMOOTH).min() == 255
    assert picture(np.full((1, 2, 3), -99.0), SMOOTH).max() == 0
    assert picture(np.full((1, 2, 3), np.nan), SMOOTH).max() == 0
    one_channel = ImageInput(shape=(2, 3, 1), dtype="uint8", low=0, high=16)
    assert picture(np.zeros((4, 2, 3, 1)), one_channel).shape == (4, 6)


def test_a_code_of_no_category_is_none() -> None:
    codes = [np.nan, -1.0, -0.5, 6.0, 1e300, np.inf, -np.inf]
    records = render_records(np.array([[0.5, code, 1] for code in codes]), TABLE)
    assert [record["kind"] for record in records] == [None] * len(codes)
