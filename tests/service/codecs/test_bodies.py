"""Small bodies that take long to read are told from those that do not."""

import json
from typing import Any

import numpy as np
import pytest

from service.bundle import CategoricalColumn, ImageInput, NumericColumn, TabularInput
from service.codecs.bodies import QUICK_CELLS, is_quick_answer, read_rows, read_rows_if_quick
from service.codecs.rows import MARKING

NUMBERS = TabularInput(columns=tuple(NumericColumn(name=f"n{i}") for i in range(1000)))
WORDS = TabularInput(columns=tuple(CategoricalColumn(name=f"w{i}", categories=("a", "b")) for i in range(1000)))
PAIR = TabularInput(columns=NUMBERS.columns[:2])
SMALL = ImageInput(shape=(2, 2), dtype="uint8", low=0, high=16)
NARROW = TabularInput(columns=NUMBERS.columns[:10])
RECORD = dict.fromkeys(NUMBERS.given, 1.5)


@pytest.mark.parametrize(
    ("data", "instances"),
    [
        (NUMBERS, [{}] * 5000),
        (NUMBERS, [[]] * 5000),
        (NUMBERS, [["1"] * 1000]),
        (NUMBERS, [RECORD | dict.fromkeys(NUMBERS.given[:100], "1")]),
        (NUMBERS, "n1,n2\n1,2\n"),
        (NARROW, [[]] * (QUICK_CELLS // 10 + 1)),
        (NARROW, [{f"m{i}": 1} for i in range(6)]),
    ],
    ids=["records", "rows", "texts", "texts in a record", "CSV", "narrow", "names"],
)
def test_few_bytes_may_stand_for_many_cells(data: TabularInput, instances: Any) -> None:
    assert not is_quick(data, instances)


@pytest.mark.parametrize(
    ("data", "instances"),
    [
        (NUMBERS, [RECORD | {"n0": "1"}]),
        (NUMBERS, [[1.5] * 1000]),
        (NUMBERS, [None, 1]),
        (WORDS, [["a"] * 1000]),
        (NARROW, [["1"] * 10] * 100),
        (NARROW, [{"m1": 1}] * 5),
        (NARROW, "n0,n1,n2,n3,n4,n5,n6,n7,n8,n9\n,,,,,,,,,1\n"),
    ],
    ids=["record", "row", "no rows", "words", "narrow", "names", "narrow CSV"],
)
def test_a_row_of_many_columns_is_read_at_once(data: TabularInput, instances: Any) -> None:
    assert is_quick(data, instances)


def is_quick(data: TabularInput, instances: Any) -> bool:
    is_text = isinstance(instances, str)
    body = instances if is_text else json.dumps({"instances": instances})
    return (
        read_rows_if_quick(body.encode(), "text/csv" if is_text else "application/json", data, MARKING, 2**20)
        is not None
    )


@pytest.mark.parametrize("media_type", ["text/csv", "application/vnd.apache.arrow.stream"])
def test_an_answer_of_many_fields_is_written_elsewhere(media_type: str) -> None:
    assert is_quick_answer({"instances": np.zeros((1, 200)), "latents": np.zeros((1, 2))}, media_type, None)
    assert not is_quick_answer({"latents": np.zeros((1, 2)), "instances": np.zeros((1, 201))}, media_type, None)
    assert is_quick_answer({"instances": np.zeros((1, 10_000))}, "application/json", None)
    assert is_quick_answer({"instances": np.zeros((1, 64, 64, 3))}, media_type, None) == (media_type != "text/csv")


@pytest.mark.parametrize("rows", [1, 80_000], ids=["quick", "in pieces"])
def test_long_whole_numbers_are_other_categories_than_their_neighbours(rows: int) -> None:
    data = TabularInput(columns=(CategoricalColumn(name="id", categories=(2**53 + 1, 2**53)), NumericColumn(name="n")))
    body = json.dumps({"instances": [[2**53 + 1, 0.5]] * rows + [[2**53, 0.5]]}).encode()
    assert read_rows(body, "application/json", data, MARKING, 2**20).x[:, 0].tolist() == [0.0] * rows + [1.0]


@pytest.mark.parametrize("row", [[[1]], [1.5, 2.5, 3.5], 1], ids=["narrow", "wide", "a number"])
@pytest.mark.parametrize("data", [SMALL, PAIR], ids=["pictures", "table"])
def test_rows_of_one_wrong_shape_are_marked_as_others_are(data: ImageInput | TabularInput, row: Any) -> None:
    alone, beside = (
        read_rows(json.dumps({"instances": rows}).encode(), "application/json", data, MARKING, 10)
        for rows in ([row] * 2, [row, row, "none"])
    )
    assert len(alone.places) == len(beside.places) == 0
    for i in range(2):
        assert str(alone.marks.unreadable[i]) == str(beside.marks.unreadable[i])
