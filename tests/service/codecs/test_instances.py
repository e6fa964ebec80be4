"""Clients' values become exactly the graphs' inputs, or are refused at the first offending one."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.bundle import Derived, ImageInput, NumericColumn, TabularInput, TimeFormat
from service.codecs.instances import parse_rows
from service.codecs.rendering import render_records
from service.codecs.rows import MARKING, Reading
from service.errors import InvalidError
from tests.service.codecs.schemas import COLOUR, GREY, SMOOTH, STRICT, TABLE, parse_instances

Array = npt.NDArray[Any]

LONG = "a" * 10**6


def refusal(values: object, data: ImageInput | TabularInput, reading: Reading = STRICT) -> InvalidError:
    with pytest.raises(InvalidError) as info:
        parse_instances(values, data, reading)
    return info.value


def image(value: object, *, at: tuple[int, int] = (1, 2)) -> list[list[Any]]:
    """A grey picture with something at one pixel."""
    pixels: list[list[Any]] = [[0, 1, 2], [3, 4, 5]]
    pixels[at[0]][at[1]] = value
    return pixels


# Pictures


@given(pixels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 4), st.just(2), st.just(3)), elements=st.integers(0, 16)))
def test_pixels_are_taken_as_they_are(pixels: Array) -> None:
    for values in (pixels.tolist(), pixels, pixels.astype(float).tolist(), pixels.astype(">i8"), pixels.astype("f2")):
        answer = parse_instances(values, GREY)
        assert answer.dtype == np.uint8
        np.testing.assert_array_equal(answer, pixels)


@given(pixels=hnp.arrays(np.float32, (2, 2, 3), elements=st.floats(-1, 1, width=32)))
def test_smooth_pixels_are_taken_as_they_are(pixels: Array) -> None:
    for values in (pixels.tolist(), pixels, pixels.astype(">f8")):
        answer = parse_instances(values, SMOOTH)
        assert answer.dtype == np.float32
        np.testing.assert_array_equal(answer, pixels)


def test_colours_are_the_last_axis() -> None:
    pixels = np.arange(18).reshape(1, 2, 3, 3)
    np.testing.assert_array_equal(parse_instances(pixels.tolist(), COLOUR), pixels)
    assert refusal(pixels[..., :2].tolist(), COLOUR).location == "instances[0][0][0]"
    assert refusal(pixels[..., 0].tolist(), COLOUR).location == "instances[0][0][0]"
    assert refusal(pixels[..., :2], COLOUR).location == "instances[0][0][0]"


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (True, "must be a number, not a boolean"),
        (False, "must be a number, not a boolean"),
        ("1", "must be a number, not a string"),
        ("", "must be a number, not a string"),
        (LONG, "must be a number, not a string"),
        (None, "must be a number, not null"),
        ([], "must be a number, not an array"),
        ([1], "must be a number, not an array"),
        ({}, "must be a number, not an object"),
        (10**400, "is too large a number"),
        (-(10**400), "is too large a number"),
        (2**63, "9.223372036854776e+18 is outside [0, 16]"),
        (2**64, "1.8446744073709552e+19 is outside [0, 16]"),
        (17, "17 is outside [0, 16]"),
        (-1, "-1 is outside [0, 16]"),
        (1e308, "1e+308 is outside [0, 16]"),
        (math.inf, "inf is not a finite number"),
        (0.5, "0.5 is not a whole level"),
        (-0.5, "-0.5 is outside [0, 16]"),
    ],
    ids=lambda value: repr(value)[:30],
)
@pytest.mark.parametrize("at", [(0, 0), (0, 2), (1, 1)])
def test_a_wrong_pixel_is_found(value: object, detail: str, at: tuple[int, int]) -> None:
    for before in ([], [image(0)], [image(3), image(1)]):
        error = refusal([*before, image(value, at=at), image(0)], GREY)
        assert error.location == f"instances[{len(before)}][{at[0]}][{at[1]}]"
        assert error.detail == detail
    beside_fractions = refusal([image(0.0), image(value, at=at), image(0.5)], GREY)
    assert beside_fractions.location == f"instances[1][{at[0]}][{at[1]}]"


def test_the_first_of_several_wrong_pixels_is_named() -> None:
    assert refusal([image(0), image(17, at=(0, 1)), image(18, at=(0, 0))], GREY).location == "instances[1][0][1]"
    assert refusal([image("x"), image(None, at=(0, 0))], GREY).location == "instances[0][1][2]"
    array = np.zeros((3, 2, 3))
    array[1, 1, 0] = array[2, 0, 0] = np.nan
    assert refusal(array, GREY).location == "instances[1][1][0]"


@pytest.mark.parametrize(
    ("values", "location"),
    [
        (None, "instances"),
        (1, "instances"),
        ("pixels", "instances"),
        ({"0": image(0)}, "instances"),
        ([], "instances"),
        ([[]], "instances[0]"),
        ([1], "instances[0]"),
        ([None], "instances[0]"),
        ([{}], "instances[0]"),
        (["ab"], "instances[0]"),
        ([image(0), []], "instances[1]"),
        (image(0), "instances[0]"),
        ([image(0), 5], "instances[1]"),
        ([image(0), [[0, 1, 2]]], "instances[1]"),
        ([image(0), [[0, 1, 2]] * 3], "instances[1]"),
        ([image(0), [[0, 1, 2], [0, 1]]], "instances[1][1]"),
        ([image(0), [[0, 1, 2, 3], [0, 1, 2, 3]]], "instances[1][0]"),
        ([[[0, 1, 2, 3], [0, 1, 2, 3]]], "instances[0][0]"),
        ([[[[0]] * 3] * 2], "instances[0][0][0]"),
        ([[[], []]], "instances[0][0]"),
    ],
)
def test_a_wrong_shape_is_found(values: object, location: str) -> None:
    for data in (GREY, SMOOTH):
        assert refusal(values, data).location == location


@pytest.mark.parametrize("depth", [10, 70, 900])
def test_any_depth_is_refused(depth: int) -> None:
    values: list[Any] = []
    for _ in range(depth):
        values = [values]
    assert refusal(values, GREY).location == "instances[0]"


def test_a_long_string_costs_no_more_than_itself() -> None:
    """NumPy would make each of the 600,000 numbers as long as the string: terabytes."""
    error = refusal([image(0)] * 10**5 + [image(LONG)], GREY)
    assert error.location == f"instances[{10**5}][1][2]"
    assert len(error.detail) < 100


@pytest.mark.parametrize(
    ("array", "detail"),
    [
        (np.zeros((0, 2, 3)), "must hold at least one instance"),
        (np.zeros((1, 2, 3), bool), "must hold real numbers, not bool"),
        (np.zeros((1, 2, 3), complex), "must hold real numbers, not complex128"),
        (np.zeros((1, 2, 3), "U1"), "must hold real numbers, not <U1"),
        (np.zeros((1, 2, 3), "V2"), "must hold real numbers, not |V2"),
        (np.zeros((1, 2, 3), "m8[s]"), "must hold real numbers, not timedelta64[s]"),
    ],
)
def test_a_wrong_array_is_refused(array: Array, detail: str) -> None:
    error = refusal(array, GREY)
    assert (error.location, error.detail) == ("instances", detail)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("shape", "location", "detail"),
    [
        ((1, 3, 2), "instances[0]", "must have 2 values, not 3"),
        ((1, 2, 2), "instances[0][0]", "must have 3 values, not 2"),
        ((2, 3), "instances[0]", "must have 2 values, not 3"),
        ((1, 2), "instances[0][0]", "must be an array of 3 values, not a number"),
        ((2,), "instances[0]", "must be an array of 2 values, not a number"),
        ((1, 2, 3, 1), "instances[0][0][0]", "must be a number, not an array"),
    ],
)
def test_an_array_of_another_shape_is_found(
    shape: tuple[int, ...], location: str, detail: str, *, nested: bool
) -> None:
    array = np.zeros(shape)
    error = refusal(array.tolist() if nested else array, GREY)
    assert (error.location, error.detail) == (location, detail)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_pixel_must_be_finite(value: float) -> None:
    for data in (GREY, SMOOTH):
        for dtype in ("f2", "f4", "f8"):
            array = np.zeros((2, 2, 3), dtype)
            array[1, 0, 2] = value
            assert refusal(array, data).location == "instances[1][0][2]"


def test_bounds_are_part_of_the_domain() -> None:
    ends = np.array([[[0, 16, 0], [16, 0, 16]]])
    np.testing.assert_array_equal(parse_instances(ends, GREY), ends)
    for value in (-1, 17, 2**40, -(2**40)):
        assert refusal(np.full((1, 2, 3), value), GREY).location == "instances[0][0][0]"
    assert refusal(np.full((1, 2, 3), np.nextafter(1.0, 2)), SMOOTH).location == "instances[0][0][0]"


# Tables


def test_rows_of_a_table_in_every_form() -> None:
    records = [
        {"age": 1, "kind": "a", "a.b[0]": 0.5},
        {"a.b[0]": None, "kind": True, "age": -2.5},
        {"age": None, "kind": None, "a.b[0]": 10**15},
    ]
    expected = np.array([[1, 0, 0.5], [-2.5, 2, np.nan], [np.nan, np.nan, 1e15]])
    lists = [[record[name] for name in TABLE.features] for record in records]
    for values in (records, lists, [records[0], *lists[1:]], expected, np.asfortranarray(expected)):
        answer = parse_instances(values, TABLE)
        assert answer.dtype == np.float64
        np.testing.assert_array_equal(answer, expected)


def test_a_name_without_blanks_goes_before_one_with_them() -> None:
    record = {"age": 1, "kind": "a", "a.b[0] ": 0}
    for sent in ({**record, " age": 2}, {" age": 2, **record}):
        assert parse_instances([sent], TABLE).tolist() == [[1, 0, 0]]


def test_zero_has_no_sign() -> None:
    for values in (np.array([[-0.0, 0, -0.0]]), [[-0.0, "a", -0.0]]):
        assert not np.signbit(parse_instances(values, TABLE)).any()


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("a", 0),
        (" a", 0),
        (1, 1),
        (1.0, 1),
        (True, 2),
        (2.5, 3),
        ("1", 4),
        (0, 5),
        (0.0, 5),
        (-0.0, 5),
        (None, math.nan),
        ("", math.nan),
    ],
)
def test_categories_are_told_apart(value: object, code: float) -> None:
    np.testing.assert_array_equal(parse_instances([[1, value, 1]], TABLE)[0, 1], code)


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        *((value, "is not a known category; known are 'a', 1, True, 2.5, '1', 0") for value in ("b", "A", "True", "0")),
        *((value, "is not a known category") for value in (2, 2.5000001, False, 10**400)),
        (math.inf, "is too large a number"),
        *((value, "must be one value, not an array") for value in ([], ["a"])),
        *((value, "must be one value, not an object") for value in ({}, {"a": 1})),
    ],
)
def test_an_unknown_category_is_named(value: object, detail: str) -> None:
    for rows in ([[1, "a", 1], [1, value, 1]], [[1, "a", 1], [1, value, 1], *[[1, "a", 1]] * 100]):
        error = refusal(rows, TABLE)
        assert error.location == "instances[1].kind"
        assert detail in error.detail


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (True, "must be a number, not a boolean"),
        ("one", "'one' is not a number"),
        ([1], "must be a number, not an array"),
        ({}, "must be a number, not an object"),
        (10**400, "is too large a number"),
        (math.inf, "is too large a number"),
        (-math.inf, "is too large a number"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_wrong_number_is_named(value: object, detail: str) -> None:
    for row in ([1, "a", value], {"age": 1, "kind": "a", "a.b[0]": value}):
        error = refusal([[1, "a", 1], row, ["x", "x", "x"]], TABLE)
        assert (error.location, error.detail) == ("instances[1].a.b[0]", detail)


@pytest.mark.parametrize(
    ("row", "location", "detail"),
    [
        ({}, "instances[1].age", "is absent; send null where the value is missing"),
        ({"age": 1, "a.b[0]": 1}, "instances[1].kind", "is absent; send null where the value is missing"),
        ({"age": 1, "kind": "a", "a.b[0]": 1, "x": 1}, "instances[1].x", "is no column of this model"),
        ({"Age": 1, "kind": "a", "a.b[0]": 1}, "instances[1].Age", "is no column of this model; did you mean 'age'?"),
        (
            {"age ": 1, " age": 2, "kind": "a", "a.b[0]": 1},
            "instances[1].age",
            "stands there several times, with different blanks around it",
        ),
        ([], "instances[1]", "must have 3 values, not 0"),
        ([1, "a"], "instances[1]", "must have 3 values, not 2"),
        ([1, "a", 1, 1], "instances[1]", "must have 3 values, not 4"),
        ("row", "instances[1]", "must be a record or an array, not a string"),
        (1, "instances[1]", "must be a record or an array, not a number"),
        (None, "instances[1]", "must be a record or an array, not null"),
        (True, "instances[1]", "must be a record or an array, not a boolean"),
    ],
)
def test_a_wrong_row_is_named(row: object, location: str, detail: str) -> None:
    error = refusal([[1, "a", 1], row], TABLE, Reading(ignore_extra=False))
    assert (error.location, error.detail) == (location, detail)


def test_the_first_wrong_cell_of_a_row_is_told_however_unseen_categories_are_read() -> None:
    """Bulk scoring reads them as marked, and then has them do what the user says."""
    rows = [["x", "new", "y"], [1, "new", "y"], [1, "new", 2], [1, "a", "y"], [1, "new"], [1, "a", 2]]
    told = []
    for reading in (MARKING, Reading(mark=True, unseen="error")):
        marks = parse_rows(rows, TABLE, reading).marks.where_unseen("error")
        told.append({row: error.location for row, error in sorted(marks.unreadable.items())})
    expected = dict(enumerate([".age", ".kind", ".kind", ".a.b[0]", ""]))
    assert told == 2 * [{row: f"instances[{row}]{place}" for row, place in expected.items()}]


@pytest.mark.parametrize("values", [None, [], {}, 1, "rows", True])
def test_a_table_is_a_list(values: object) -> None:
    error = refusal(values, TABLE)
    assert (error.location, error.detail) == ("instances", "must be a non-empty array")


@pytest.mark.parametrize("code", [-1, 6, 0.5, np.inf, -np.inf, 1e300])
def test_codes_must_be_known(code: float) -> None:
    error = refusal(np.array([[1, 0, 1], [1, code, 1]]), TABLE)
    assert error.location == "instances[1].kind"
    assert error.detail.endswith("is not a category code, 0 to 5")


def test_numbers_of_a_table_may_be_missing_but_not_infinite() -> None:
    assert refusal(np.array([[1, 0, np.inf]]), TABLE).location == "instances[0].a.b[0]"
    ratio = TabularInput(columns=(NumericColumn(name="ratio", infinite_is_missing=True),))
    np.testing.assert_array_equal(parse_instances(np.array([[np.inf], [2]]), ratio), [[np.nan], [2]])
    np.testing.assert_array_equal(parse_instances(np.full((1, 3), np.nan), TABLE), np.full((1, 3), np.nan))
    np.testing.assert_array_equal(parse_instances(np.array([[3, 5, 7]], ">i2"), TABLE), [[3.0, 5.0, 7.0]])
    assert refusal(np.zeros((1, 2)), TABLE).location == "instances[0]"


@given(
    rows=st.lists(
        st.tuples(
            st.floats(allow_nan=False, allow_infinity=False),
            st.integers(0, 5),
            st.floats(allow_nan=False, allow_infinity=False),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_rendered_is_read_back(rows: list[tuple[float, int, float]]) -> None:
    cells = np.array(rows, np.float64)
    records = render_records(cells, TABLE)
    assert all(list(record) == ["age", "kind", "a.b[0]"] for record in records)
    np.testing.assert_array_equal(parse_instances(records, TABLE), cells)


def test_columns_that_files_have_and_the_model_has_not_are_known() -> None:
    """Records of the training file, and of answers, are read where extra fields are refused."""
    placed = NumericColumn(name="placed", time=TimeFormat(order="ymd"))
    hour = NumericColumn(name="placed.hour", period=24, derived=Derived(source="placed", part="hour"))
    data = TabularInput(columns=(placed, hour), dropped=("id",))
    strict = Reading(ignore_extra=False)
    x = parse_instances([{"placed": "2026-11-28 15:30:00", "id": "A-1"}, {"placed": 0}], data, strict)
    np.testing.assert_array_equal(x[:, 1], [15.5, 0])
    records = render_records(x, data)
    assert records[0] == {"placed": "2026-11-28T15:30:00", "placed.hour": 15.5}
    np.testing.assert_array_equal(parse_instances(records, data, strict), x)
    with pytest.raises(InvalidError, match="is no column of this model"):
        parse_instances([{"placed": 0, "age": 1}], data, strict)
