"""Cells by their column's rule: texts as people write them, typed columns and what JSON has."""

import datetime as dt
import decimal
import itertools
import math
import string
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from service.bundle import (
    MAX_AFFIXES,
    MISSING,
    CategoricalColumn,
    Column,
    Derived,
    NumericColumn,
    TabularInput,
    TimeFormat,
)
from service.readers import parse_column, parse_table
from service.readers.numbers import affixes
from service.readers.times import render_time

NAN = math.nan
PRICE = NumericColumn(name="c", thousands=",", affixes=("€", "%"))
COMMA = NumericColumn(name="c", decimal=",", thousands=".")
PLAN = CategoricalColumn(name="c", categories=("basic", "none", "plus"))
GROUPED = CategoricalColumn(name="c", categories=("basic", "other"), other="other")
SWITCH = CategoricalColumn(name="c", categories=(False, True))
LEVEL = CategoricalColumn(name="c", categories=(1, 2.5))
LONG = CategoricalColumn(name="c", categories=(2**53 + 1, 2**60))


def time(order: Any, *, zone: bool = False) -> NumericColumn:
    return NumericColumn(name="c", time=TimeFormat(order=order, zone=zone))


def at(*moment: int, zone: dt.timezone = dt.UTC) -> float:
    return dt.datetime(*moment, tzinfo=zone).timestamp()  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("column", "cells", "values"),
    [
        (PRICE, ["€46.81", "12%", "1,234.5", "-€3"], [46.81, 12, 1234.5, -3]),
        (PRICE, ['="€46.81"', '="n/a"', '=""'], [46.81, NAN, NAN]),
        (PLAN, ['="plus"', ' ="basic" ', '=""', "none"], [2, 0, NAN, 1]),
        (PRICE, ["(4.00)", " 5 € ", "+6", "\u22127"], [-4, 5, 6, -7]),
        (PRICE, ["€(1,234.00)", "€ (4.00) ", "(5)€", "(€ 6)", "(7 %)"], [-1234, -4, -5, -6, -7]),
        (PRICE, ["１,２３４．５％", "€٤٦٫٨١", "۳", "\u200e- 5\u200b"], [1234.5, 46.81, 3, -5]),
        (COMMA, ["1.234,56", "-7", "0,5e3"], [1234.56, -7, 500]),
        (NumericColumn(name="c", thousands=" "), ["1 234", "1\u00a0234\u202f567.5"], [1234, 1234567.5]),
        (PRICE, ["", "n/a", "NULL", "-", None, "NaN", 3], [NAN, NAN, NAN, NAN, NAN, NAN, 3]),
        (time("ymd"), ["2026-01-05", "2026-01-05 13:04:00"], [at(2026, 1, 5), at(2026, 1, 5, 13, 4)]),
        (time("ymd", zone=True), ["2026-01-05T13:04:00+01:00"], [at(2026, 1, 5, 12, 4)]),
        (time("dmy"), ["5/1/2026 1:04 PM", "05-Jan-2026"], [at(2026, 1, 5, 13, 4), at(2026, 1, 5)]),
        (time("mdy"), ["1/5/2026", "Jan 5, 2026"], [at(2026, 1, 5), at(2026, 1, 5)]),
        (time("dmy"), ["05.01.26", "5 Jan 70", "2026-01-05"], [at(2026, 1, 5), at(1970, 1, 5), at(2026, 1, 5)]),
        (time("dmy", zone=True), ["Mon, 05 Jan 2026 13:04:00 +0100"], [at(2026, 1, 5, 12, 4)]),
        (time("dmy", zone=True), ["05/Jan/2026:13:04:00 +0000"], [at(2026, 1, 5, 13, 4)]),
        (time("dmy", zone=True), ["Mon, 05 Jan 2026 13:04:00 GMT"], [at(2026, 1, 5, 13, 4)]),
        (time("ymd", zone=True), ["2026-01-05 13:04:00+01", "20260105T120400Z"], [at(2026, 1, 5, 12, 4)] * 2),
        (time("mdy"), ["Mon Jan  5 13:04:00 2026"], [at(2026, 1, 5, 13, 4)]),
        (time("mdy", zone=True), ["Mon Jan 5 2026 13:04:00 GMT+0100 (CET)"], [at(2026, 1, 5, 12, 4)]),
        (time("ymd"), ["2026-02", "2026-02-01"], [at(2026, 2, 1), at(2026, 2, 1)]),
        (time("clock"), ["08:30", "23:59:59", "24:00"], [30600, 86399, 86400]),
        (time("ymd"), ["2026-01-05 24:00:00", "2026-12-31T24:00"], [at(2026, 1, 6), at(2027, 1, 1)]),
        (time("elapsed"), ["1 days 02:00:01", "26:00:01", "-1 days +00:00:00.5", 7], [93601, 93601, -86399.5, 7]),
        (time("elapsed"), pa.array([dt.timedelta(days=1, seconds=5), None]), [86405, NAN]),
        (time("elapsed"), pa.array([dt.time(13, 4)]), [47040]),
        (PRICE, pa.array([decimal.Decimal("0.07"), None]), [0.07, NAN]),
        (LEVEL, pa.array([decimal.Decimal("2.50"), decimal.Decimal("1.00")]), [1, 0]),
        (time("ymd"), pa.array([dt.date(2026, 1, 5), None]), [at(2026, 1, 5), NAN]),
        (time("mdy"), pa.array([dt.date(2026, 1, 5)]).cast(pa.timestamp("s")), [at(2026, 1, 5)]),
        (time("clock"), pa.array([dt.time(13, 4)]), [47040]),
        (time("clock"), pa.array([1500], pa.int32()).cast(pa.time32("ms")), [1.5]),
        # The largest of their units, as other programs mark what has no end.
        (time("ymd"), pa.array([2**63 - 1, -1]).cast(pa.timestamp("ms")), [(2**63 - 1) / 1000, -0.001]),
        (time("ymd"), pa.array([2**31 - 1], pa.int32()).cast(pa.date32()), [(2**31 - 1) * 86400.0]),
        (time("elapsed"), pa.array([2**63 - 1, -1]).cast(pa.duration("s")), [2**63 - 1, -1]),
        (time("ymd"), pa.array([1_700_000_000_123_456_789]).cast(pa.timestamp("ns")), [1_700_000_000.123456]),
        (time("ymd"), pa.array([dt.datetime(2026, 1, 5, tzinfo=dt.UTC)]), [at(2026, 1, 5)]),
        (PLAN, ["plus", " none ", "-", None, "NA"], [2, 1, NAN, NAN, NAN]),
        (GROUPED, ["basic", "anything", "", 7], [0, 1, NAN, 1]),
        (SWITCH, ["True", "FALSE", True, False, ""], [1, 0, 1, 0, NAN]),
        # This column is equal to the one before it, and takes other values.
        (CategoricalColumn(name="c", categories=(0, 1)), ["0", 1, 1.0], [0, 1, 1]),
        (LEVEL, ["1.0", 1, 2.5, "2.50"], [0, 0, 1, 1]),
        (LEVEL, pa.array([1.0, None, math.nan]), [0, NAN, NAN]),
        (LONG, [str(2**53 + 1), f"+{2**60}", None], [0, 1, NAN]),
        (LONG, [2**53 + 1, 2**60, 2.0**60], [0, 1, 1]),
        (PLAN, pa.array(["plus", None]).dictionary_encode(), [2, NAN]),
    ],
)  # fmt: skip
def test_cells_that_follow_their_columns_rule(column: Column, cells: Any, values: list[float]) -> None:
    parsed, problems = parse_column(cells, column, MISSING)
    assert problems == []
    np.testing.assert_array_equal(parsed, values)
    if isinstance(cells, list) and all(isinstance(cell, str | None) for cell in cells):
        np.testing.assert_array_equal(parse_column(pa.array(cells), column, MISSING)[0], values)


@pytest.mark.parametrize(
    ("column", "text"),
    [
        *((time("ymd"), text) for text in ("2026-01-05 13", "2026-01-05T1304", "0000-02-29", "2026-01-05 13:04:00.5")),
        *((time("ymd", zone=True), text) for text in ("2026-01-05 13Z", "2026-01-05T13+01", "2026-01-05 13:04-0130")),
        *((NumericColumn(name="c"), text) for text in ("-nan(ind)", "1e400", ".5", "1E+5", "-Infinity")),
    ],
)
def test_a_wrong_cell_changes_no_other(column: Column, text: str) -> None:
    alone, wrong = parse_column([text], column, MISSING)
    beside, also_wrong = parse_column([text, "x"], column, MISSING)
    np.testing.assert_array_equal(alone, beside[:1])
    assert {problem.row for problem in also_wrong} == {1, *(problem.row for problem in wrong)}


@pytest.mark.parametrize(
    ("column", "cells", "wrong"),
    [
        (PRICE, ["1", "12,3", "$4", "5"], {1: "'12,3' is not a number", 2: "'$4' is not a number"}),
        (COMMA, ["46.81"], {0: "'46.81' is not a number"}),
        (PRICE, [1, True, [1], 10**400], {1: "must be a number, not a boolean", 2: "must be", 3: "is too large"}),
        (PRICE, pa.array([1.0, math.inf]), {1: "is too large a number"}),
        (PRICE, pa.array([None, b"\xff"]), {1: "must be a number, not binary"}),
        (time("elapsed"), ["1 day", pa], {0: "'1 day' is not a duration", 1: "must be a number, not an object"}),
        (time("ymd"), ["2026-01-05 24:01", "9999-12-31 24:00"], {0: "'2026-01-05 24:01' is", 1: "'9999-12-31 24"}),
        (time("ymd"), ["2026-02-31", "tomorrow"], {0: "'2026-02-31' is not a date or time", 1: "'tomorrow' is not"}),
        (time("dmy"), pa.array([dt.time(1), None]), {0: "must be a date or time, not time64[us]"}),
        (time("clock"), pa.array([0], pa.timestamp("us")), {0: "must be a time, not timestamp[us]"}),
        (time("elapsed"), pa.array([dt.date(2026, 1, 5)]), {0: "must be a duration, not date32[day]"}),
        (LONG, [2**53, 2.0**53, str(2**53)], {0: f"{2**53} is", 1: f"{2**53} is", 2: f"'{2**53}' is"}),
        (SWITCH, ["yes", 1], {0: "'yes' is not a known category; known are False, True", 1: "1 is not"}),
    ],
)  # fmt: skip
def test_cells_that_do_not_are_reported_one_by_one(column: Column, cells: Any, wrong: dict[int, str]) -> None:
    parsed, problems = parse_column(cells, column, MISSING)
    found = {problem.row: problem.detail for problem in problems}
    assert found.keys() == wrong.keys()
    assert all(found[row].startswith(text) for row, text in wrong.items())
    assert set(np.flatnonzero(np.isnan(parsed))) >= set(wrong)
    assert {problem.unseen for problem in problems} == {column.type == "categorical"}


def test_a_table_computes_its_derived_columns() -> None:
    placed = NumericColumn(name="placed", time=TimeFormat(order="ymd"))
    hour = NumericColumn(name="placed.hour", period=24, derived=Derived(source="placed", part="hour"))
    week = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    of_placed = Derived(source="placed", part="weekday")
    day = CategoricalColumn(name="placed.weekday", categories=week, derived=of_placed)
    data = TabularInput(columns=(hour, day, placed))
    assert data.given == ("placed",)
    x, problems = parse_table({"placed": ["2026-11-28 15:30:00", None, "1969-12-31 06:00:00", "x"]}, data)
    np.testing.assert_array_equal(x[:, :2], [[15.5, 5], [NAN, NAN], [6, 2], [NAN, NAN]])
    assert [(problem.row, problem.column) for problem in problems] == [(3, "placed")]


def test_times_are_rendered_as_text_that_is_read_back() -> None:
    column = time("dmy", zone=True)
    assert column.time is not None
    text = render_time(at(2026, 1, 5, 13, 4), column.time)
    assert text == "2026-01-05T13:04:00Z"
    assert parse_column([text], time("ymd", zone=True), MISSING)[0] == [at(2026, 1, 5, 13, 4)]
    assert render_time(1e30, column.time) == "9999-12-31T23:59:59Z"
    assert render_time(-3600.0, TimeFormat(order="elapsed")) == "-1 days 23:00:00"
    assert parse_column(["-1 days 23:00:00"], time("elapsed"), MISSING)[0] == [-3600]
    assert render_time(NAN, column.time) is None


def test_times_of_day_that_a_model_expects_stay_within_the_day() -> None:
    clock = TimeFormat(order="clock")
    assert [render_time(value, clock) for value in (-5.0, 49.6, 86399.7)] == ["00:00:00", "00:00:50", "23:59:59"]


def test_letters_before_numbers_are_amounts_in_currencies_alone() -> None:
    assert affixes(["USD 123", "12 EUR", "R$ 5", "CA$7"]) == ("CA$", "EUR", "R$", "USD")
    assert affixes(["USW00014839", "ALS193307060", "ABC 123"]) == ()
    marked = [f"{''.join(letters)}$5" for letters in itertools.product(string.ascii_uppercase, repeat=2)]
    assert affixes(marked) == ()
    assert len(affixes(marked[:MAX_AFFIXES])) == MAX_AFFIXES
