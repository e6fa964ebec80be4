"""Validation rows are no training rows, and calibration rows repeat these as often as new rows do."""

import hashlib
import struct

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from service.bundle import NumericColumn, TabularInput, read_bundle
from service.errors import FileError
from service.scoring import p_values
from service.storage import DEFAULT_REPOSITORY
from tests.training.datasets.files import PARTS
from training.datasets import Dataset, SplitRecipe, Splits, split
from training.recipes import Recipe


def table(rows: npt.NDArray[np.float64], num_test: int = 0) -> Dataset:
    schema = TabularInput(columns=tuple(NumericColumn(name=f"x{i}") for i in range(rows.shape[1])))
    return Dataset(schema, rows, num_test)


def parts(splits: Splits) -> list[npt.NDArray[np.int64]]:
    return [getattr(splits, name) for name in PARTS]


def refusal(rows: npt.NDArray[np.float64], recipe: SplitRecipe) -> str:
    try:
        split(table(rows), recipe)
    except FileError as error:
        return str(error)
    return ""


@given(
    rows=hnp.arrays(
        np.float64, st.tuples(st.integers(4, 60), st.just(2)), elements=st.sampled_from([0.0, 1.0, np.nan])
    ),
    seed=st.integers(0, 2**32),
    fractions=st.tuples(*[st.floats(0.01, 0.33)] * 3),
)
def test_splits_partition_the_rows_and_no_validation_row_is_a_training_row(
    rows: npt.NDArray[np.float64], seed: int, fractions: tuple[float, float, float]
) -> None:
    validation, calibration, test = fractions
    recipe = SplitRecipe(validation=validation, calibration=calibration, test=test, seed=seed)
    if why := refusal(rows, recipe):
        # All rows that are neither calibration nor test rows may be identical, if they are few.
        few = len({row.tobytes() for row in rows}) < len(PARTS)
        assert ("distinct rows are too few for 4 parts" if few else "training and validation are identical") in why
        return
    splits = split(table(rows), recipe)
    assert sorted(np.concatenate(parts(splits)).tolist()) == list(range(len(rows)))
    train, chosen, held_out, _ = ([rows[i].tobytes() for i in part] for part in parts(splits))
    assert not set(train) & set(chosen)
    assert splits.repeats == np.mean([row in {*train, *chosen} for row in held_out])
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


def test_p_values_hold_their_level_where_new_rows_repeat_training_rows() -> None:
    """Of 495 draws from 200 equally frequent values, 297 are learned, and 99 calibrate.

    A model that knows the rows it learned from scores them by 0 and others by 1, plus noise in [0, 1]. P-values of new
    draws are then uniform on 1/100, 2/100, ..., 1. A draw repeats one of the 297 with probability 1 - (1 - 1/200)^297 =
    0.774; were these kept out of the calibration, a tenth of the others would be alarms at 10 %, 2.3 % of all.
    """
    learned, values, repeats, alarms = 297, 200, [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        rows, new = rng.integers(0, values, 495), rng.integers(0, values, 100)
        splits = split(table(rows.astype(np.float64)[:, None]), SplitRecipe(seed=seed))
        known = rows[np.concatenate([splits.train, splits.validation])]
        assert len(known) == learned

        held_out, scores = (~np.isin(x, known) + rng.random(len(x)) for x in (rows[splits.calibration], new))
        repeats.append(splits.repeats)
        alarms.append([np.mean(p_values(scores, np.sort(held_out)) <= level) for level in (0.01, 0.05, 0.1)])
    for found, expected in ((repeats, 1 - (1 - 1 / values) ** learned), (alarms, np.array([0.01, 0.05, 0.1]))):
        error = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
        assert np.all(np.abs(np.mean(found, axis=0) - expected) < 3 * error)


def test_rows_without_repeats_are_divided_as_the_embedded_bundle_says() -> None:
    provenance = read_bundle(DEFAULT_REPOSITORY / "digits" / "1").manifest.provenance
    recipe = Recipe.model_validate(provenance.recipe)
    assert split(recipe.dataset.load(None), recipe.split).record() == provenance.splits


def test_an_official_test_set_stays_whole() -> None:
    dataset = table(np.append(np.arange(100.0), [0.0] * 20)[:, None], num_test=20)
    splits = split(dataset, SplitRecipe(validation=0.1, calibration=0.3, test=0.5))
    np.testing.assert_array_equal(splits.test, np.arange(100, 120))
    assert [len(part) for part in parts(splits)] == [60, 10, 30, 20]


def test_too_few_rows() -> None:
    with pytest.raises(FileError, match="3 rows are too few for 4 parts"):
        split(table(np.arange(3.0)[:, None]), SplitRecipe())
    with pytest.raises(FileError, match="2 rows are too few for 3 parts"):
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
