"""The parts leak nothing into one another."""

import hashlib
import struct

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from service.bundle import NumericColumn, TabularInput
from tests.training.datasets.files import PARTS
from training.datasets import DataError, Dataset, SplitRecipe, Splits, split


def table(rows: npt.NDArray[np.float64], num_test: int = 0) -> Dataset:
    schema = TabularInput(columns=tuple(NumericColumn(name=f"x{i}") for i in range(rows.shape[1])))
    return Dataset(schema, rows, num_test)


def parts(splits: Splits) -> list[npt.NDArray[np.int64]]:
    return [getattr(splits, name) for name in PARTS]


@given(
    rows=hnp.arrays(
        np.float64, st.tuples(st.integers(4, 60), st.just(2)), elements=st.sampled_from([0.0, 1.0, np.nan])
    ),
    seed=st.integers(0, 2**32),
    fractions=st.tuples(*[st.floats(0.01, 0.33)] * 3),
)
def test_splits_partition_the_rows_and_keep_duplicates_together(
    rows: npt.NDArray[np.float64], seed: int, fractions: tuple[float, float, float]
) -> None:
    validation, calibration, test = fractions
    recipe = SplitRecipe(validation=validation, calibration=calibration, test=test, seed=seed)
    if len({row.tobytes() for row in rows}) < len(PARTS):
        with pytest.raises(DataError, match="distinct rows are too few for 4 parts"):
            split(table(rows), recipe)
        return
    splits = split(table(rows), recipe)
    assert sorted(np.concatenate(parts(splits)).tolist()) == list(range(len(rows)))
    contents = [{rows[i].tobytes() for i in part} for part in parts(splits)]
    assert sum(map(len, contents)) == len(set.union(*contents))
    for part, again in zip(parts(splits), parts(split(table(rows), recipe)), strict=True):
        assert part.dtype == np.int64
        assert part.size
        assert np.all(np.diff(part) > 0)
        np.testing.assert_array_equal(part, again)


def test_split_shares_and_seeds() -> None:
    dataset = table(np.arange(1000.0)[:, None])
    splits = split(dataset, SplitRecipe())
    assert [len(part) for part in parts(splits)] == [500, 100, 200, 200]
    other = split(dataset, SplitRecipe(seed=1))
    assert not np.array_equal(splits.train, other.train)
    # Neighbours in the file are no likelier to share a part than others.
    assert abs(splits.test.mean() - 500) < 100


def test_an_official_test_set_stays_whole() -> None:
    dataset = table(np.append(np.arange(100.0), [0.0] * 20)[:, None], num_test=20)
    splits = split(dataset, SplitRecipe(validation=0.1, calibration=0.3, test=0.5))
    np.testing.assert_array_equal(splits.test, np.arange(100, 120))
    assert [len(part) for part in parts(splits)] == [60, 10, 30, 20]


def test_too_few_rows() -> None:
    with pytest.raises(DataError, match="3 rows are too few for 4 parts"):
        split(table(np.arange(3.0)[:, None]), SplitRecipe())
    with pytest.raises(DataError, match="2 rows are too few for 3 parts"):
        split(table(np.arange(9.0)[:, None], num_test=7), SplitRecipe())
    assert [len(part) for part in parts(split(table(np.arange(4.0)[:, None]), SplitRecipe()))] == [1, 1, 1, 1]


def test_the_record_is_of_the_row_numbers() -> None:
    splits = split(table(np.arange(50.0)[:, None]), SplitRecipe())
    record = splits.record()
    assert tuple(record) == PARTS
    assert record["test"].rows == 10
    assert record["test"].sha256 == hashlib.sha256(struct.pack("<10q", *splits.test)).hexdigest()


@pytest.mark.parametrize(
    "fractions", [{"test": 0}, {"validation": 1}, {"seed": -1}, {"calibration": 0.7}, {"train": 0.5}]
)
def test_bad_split_recipes(fractions: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SplitRecipe.model_validate(fractions)
