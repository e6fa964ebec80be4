"""Whole columns become the cells that the same values have as records of a request."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from service.bulk.columns import MISSING, parse_columns
from service.bundle import CategoricalColumn, NumericColumn, TabularInput
from service.codecs.instances import parse_instances
from service.errors import InvalidError
from training.datasets.table import Table

DATA = TabularInput(
    columns=(
        NumericColumn(name="age"),
        CategoricalColumn(name="colour", categories=("red", "blue")),
        CategoricalColumn(name="member", categories=(False, True)),
        CategoricalColumn(name="doors", categories=(3, 5)),
        CategoricalColumn(name="mixed", categories=("1", 1.5, True)),
    )
)
RECORDS: list[dict[str, Any]] = [
    {"age": 1.5, "colour": "blue", "member": True, "doors": 3, "mixed": "1"},
    {"age": None, "colour": None, "member": None, "doors": None, "mixed": None},
    {"age": -1e300, "colour": "red", "member": False, "doors": 5, "mixed": "1"},
]


def batch(**changes: pa.Array) -> pa.RecordBatch:
    arrays = {name: pa.array([record[name] for record in RECORDS]) for name in DATA.features} | changes
    return pa.RecordBatch.from_pydict(arrays)


def test_typed_columns_are_what_records_are() -> None:
    np.testing.assert_array_equal(parse_columns(batch(), DATA), parse_instances(RECORDS, DATA))


def test_texts_are_what_they_spell() -> None:
    texts = {
        "age": pa.array([" 1.5", "NA", "-1e300"]),
        "colour": pa.array(["blue ", "", "red"]),
        "member": pa.array(["True", "?", "false"]),
        "doors": pa.array(["3", "null", "5.0"]),
    }
    np.testing.assert_array_equal(parse_columns(batch(**texts), DATA), parse_instances(RECORDS, DATA))


def test_the_trainer_misses_the_same_texts() -> None:
    assert Table().missing == MISSING


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_any_kind_of_text_will_do(kind: pa.DataType) -> None:
    values = pa.array([record["colour"] for record in RECORDS], kind)
    expected = parse_instances(RECORDS, DATA)
    np.testing.assert_array_equal(parse_columns(batch(colour=values), DATA), expected)
    np.testing.assert_array_equal(
        parse_columns(batch(colour=values.cast(pa.string()).dictionary_encode()), DATA), expected
    )


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.float16(), pa.float32()])
def test_any_kind_of_number_will_do(kind: pa.DataType) -> None:
    numbers = pa.array(np.array([1, 2, 3], kind.to_pandas_dtype()))
    assert parse_columns(batch(age=numbers), DATA)[:, 0].tolist() == [1, 2, 3]


def test_columns_come_by_name_and_others_are_passed_over() -> None:
    given = batch()
    shuffled = given.select(DATA.features[::-1]).append_column("id", pa.array([7, 8, 9]))
    np.testing.assert_array_equal(parse_columns(shuffled, DATA), parse_columns(given, DATA))


@pytest.mark.parametrize("empty", [pa.nulls(3), pa.array([None] * 3, pa.string()), pa.array(["", "NA", "?"])])
@pytest.mark.parametrize("name", ["age", "colour"])
def test_a_column_may_be_missing_in_every_row(name: str, empty: pa.Array) -> None:
    cells = parse_columns(batch(**{name: empty}), DATA)[:, DATA.features.index(name)]
    assert all(math.isnan(cell) for cell in cells)


@pytest.mark.parametrize(
    ("name", "values", "place", "problem"),
    [
        ("age", pa.array(["1", "two", "3x"]), "instances[1].age", "'two' is not a number"),
        ("age", pa.array(["1", "2", "inf"]), "instances[2].age", "is not a finite number"),
        ("age", pa.array([1.0, math.inf, 2.0]), "instances[1].age", "is not a finite number"),
        ("age", pa.array([None, True, False]), "instances[1].age", "must be a number"),
        ("colour", pa.array(["red", "green", "grey"]), "instances[1].colour", "'green' is not a known category"),
        ("colour", pa.array([1, 2, 3]), "instances[0].colour", "1 is not a known category; known are 'red', 'blue'"),
        ("member", pa.array(["true", "yes", "no"]), "instances[1].member", "'yes' is not a known category"),
        ("doors", pa.array([3, 3, 4]), "instances[2].doors", "4 is not a known category"),
    ],
)
def test_a_wrong_cell_is_named(name: str, values: pa.Array, place: str, problem: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_columns(batch(**{name: values}), DATA)
    assert caught.value.location == place
    assert problem in caught.value.detail
