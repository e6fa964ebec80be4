"""Large rows are computed few at once, and rows without a finite bound are not refined."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pytest

from service.bundle import BOUNDS, Array
from service.engine import Kind, Precision
from training.evaluation.bounds import compute, score_columns
from training.publish import verified


class Echo:
    """An engine that answers with the first value of each row, and knows how many rows came at once."""

    device: Kind = "cpu"
    precision: Precision = "float32"
    refused: Mapping[Precision, float] = MappingProxyType({})

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.sizes.append(len(inputs["x"]))
        return {graph: inputs["x"].reshape(len(inputs["x"]), -1)[:, 0]}


@pytest.mark.parametrize(
    ("shape", "draws", "sizes"),
    [((64, 64), 16, [32, 32, 6]), ((64, 64, 3), 16, 7 * [10]), ((256, 256, 3), 5, 35 * [2]), ((9,), 1000, 70 * [1])],
)
def test_large_rows_are_computed_few_at_once(shape: tuple[int, ...], draws: int, sizes: list[int]) -> None:
    engine, x = Echo(), np.zeros((70, *shape), np.uint8)
    x[:, 0] = np.arange(70).reshape(-1, *[1] * (len(shape) - 1))
    answer = compute(engine, "elbo", {"x": x}, np.zeros((draws, 2)))
    assert sorted(engine.sizes, reverse=True) == sizes
    np.testing.assert_array_equal(answer["elbo"], np.arange(70))


class Lost(Echo):
    """An engine that has no finite bound for any row."""

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return dict.fromkeys(BOUNDS, np.full(len(inputs["x"]), -np.inf))


def test_rows_without_a_finite_bound_have_no_regret() -> None:
    columns = score_columns(Lost(), ["elbo", "refine"], np.zeros((3, 2)), np.zeros((4, 2)), refine=2)
    np.testing.assert_array_equal(columns["regret"], np.full(3, np.nan))


@pytest.mark.parametrize(
    ("values", "num_draws", "rows", "draws"),
    [
        (9, 16, 64, 16),
        (28 * 28, 16, 64, 16),
        (64 * 64 * 3, 16, 10, 16),
        (256 * 256 * 3, 16, 2, 5),
        (256 * 256 * 3, 1, 10, 1),
        (1024 * 1024, 16, 2, 3),
        (9, 4096, 56, 4096),
    ],
)
def test_an_export_of_large_pictures_is_verified_on_few(values: int, num_draws: int, rows: int, draws: int) -> None:
    """Sixteen pictures of 256 × 256 in colour, and sixteen draws of each, took more than 20 GB."""
    assert verified(values, num_draws) == (rows, draws)
