"""Notes on a table: labels, how text was read, and columns that may be no amounts or no categories."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.training.datasets.files import message, rows, write, write_parquet
from training.datasets.table import Table, TableError


@pytest.mark.parametrize(
    ("cell", "note"),
    [
        (lambda n: 20260101 + n % 28, "looks like dates, as 20260101, and is used as a number"),
        (lambda n: 473910 + 37 * n, "has another number of 6 digits in every row"),
        (lambda n: ["Yes", "no", "yes"][n % 3], "has texts that differ by case alone, as 'Yes' and 'yes'"),
        (lambda n: f"{n}k" if n % 2 else f"{n}M", "is left out, though it looks like numbers, as '0M' or '1k'"),
        (lambda n: f"{n}.5" if n % 2 else f'"{n},5"', "is left out, though it looks like numbers, as '0,5' or '1.5'"),
        (lambda n: f"{n % 28 + 1}. März 2026", "is used as categories, though it looks like dates, as '1. März 2026'"),
        (
            lambda n: f"{n % 28 + 1} avril 2026",
            "is used as categories, though it looks like dates, as '1 avril 2026': write",
        ),
        (
            lambda n: f"März {n % 20 + 2001}",
            "is used as categories, though it looks like dates, as 'März 2001': write ea",
        ),
        (
            lambda n: f"{n % 40 + 1}°{n}'N",
            'is left out, though it looks like angles, as "1°0\'N": write each in degrees',
        ),
        (lambda n: f"{n % 24}.{n + 10}", "looks like times of day, as 0.10, and is used as a number; write it as 0:10"),
        (lambda n: f"{n % 24}.{n + 30}", None),
        (lambda n: 202401 + n % 12, "looks like dates, as 202401, and is used as a number"),
        (lambda n: 1767225600123.5 + 86400123 * n, "looks like milliseconds since 1970, and is used as a number"),
        (
            lambda n: ["caf\u00e9", "cafe\u0301", "tea"][n % 3],
            r"has texts that look alike, as 'caf\xe9' and 'cafe\u0301'",
        ),
        (lambda n: f'"[{n}, 2]"', "is left out, though it looks like lists, as '[0, 2]': write a column for each"),
        (
            lambda n: '"' + ",".join(f"{290 + i + n}" for i in range(9)) + '"',
            "is left out, though it looks like lists, as '29",
        ),
        (lambda n: f'"48.{n}, 11.5"', "is left out, though it looks like lists, as '48.0, 11.5': write a column for"),
        (lambda n: f"PT{n % 20}H", "is used as categories, though it looks like durations, as 'PT0H'"),
        (lambda n: f"{n}m {n % 7}s", "is left out, though it looks like durations, as '0m 0s'"),
        (lambda n: f"{n % 20}h{n % 6}5", "is left out, though it looks like durations, as '0h05'"),
        (lambda n: f"{n % 4 + 1}/{n % 5 + 20}", "is used as categories, though it looks like numbers, as '1/20'"),
        (lambda n: 1767225600000 + 86400123 * n, "looks like milliseconds since 1970, and is used as a number"),
        (lambda n: -999 if n % 7 == 0 else 20 + n / 8, "has -999, far from all other numbers; if it is a missing cell"),
        (
            lambda n: "9999-12-31" if n % 7 == 0 else f"2026-01-{n % 28 + 1:02}",
            "has 9999-12-31, far from all other dates",
        ),
        (lambda n: "01.01.1900" if n % 7 == 0 else f"{n % 28 + 1:02}.11.2026", "has 01.01.1900, far from all other"),
        (
            lambda n: -9 if n % 7 == 0 else 20 + n,
            "has -9, the only number below 0; if it is a missing cell: --dataset.m",
        ),
        (lambda n: -99 if n % 7 == 0 else 3000 + 100 * n, "has -99, the only number below 0; if it is a missing cell"),
        (
            lambda n: -8 - n % 2 if n % 7 == 0 else 20 + n,
            "has -9, -8, the only numbers below 0; if they are missing cells",
        ),
        (lambda n: 997 + n % 3 if n % 7 == 0 else 20 + n, "has 997, 998, 999, far from all other numbers; if they are"),
        (
            lambda n: 77 + 11 * (n % 2) if n % 7 == 0 else n % 9,
            "has 77, 88, far from all other numbers; if they are mi",
        ),
        (lambda n: n % 9 - 3, None),
        (lambda n: 97 + n % 3 if n % 7 == 0 else 20 + 2 * n, None),
        (lambda n: -1 if n % 7 == 0 else n % 9 - 4, None),
        (lambda n: n % 3 - 1, None),
        (lambda n: 9 if n % 7 == 0 else 20 + n % 3, None),
        (lambda n: f"{n}.5%" if n % 2 else 0.01 * n, "has '1.5%' for 1.5 and '0.02' for 0.02; if that is wrong, write"),
        (lambda n: f"{n}.5%" if n % 2 else 0, None),
        (
            lambda n: f"{'JanFebAprSep'[n % 4 * 3 :][:3]}-{n % 3 + 23}",
            "is used as categories, though it looks like dates",
        ),
        (lambda n: "Subtotal S1" if n % 8 == 0 else f"S{n % 5}", "has 'Subtotal S1': remove its rows, if they are lin"),
        (
            lambda n: ["TRUE", "False", "1", "0"][n % 4],
            "has 'TRUE', 'False', '1', '0' for yes and no: they count as diff",
        ),
        (lambda n: ["Y", "N", "U"][n % 3], None),
        (
            lambda n: "no answer" if n % 5 == 0 else n % 6,
            "is used as categories, though all but 'no answer' are numbers; if it is a missing cell: --dataset.missing",
        ),
        (
            lambda n: ["k.A.", "keine"][n % 2] if n % 5 == 0 else n % 6,
            "is used as categories, though all but 'k.A.', 'keine' are numbers; if they are missing cells",
        ),
        (lambda n: ["low", "high", "1", "2", "3"][n % 5], "is used as categories, though all but 'high', 'low' are nu"),
        (lambda n: ["low", "high", "1", "2"][n % 4], None),
        (lambda n: f"{n}.5±0.1", "is left out, though it looks like numbers, as '0.5±0.1'"),
        (lambda n: 1767225600 + 86400 * (n % 39), None),
        (lambda n: ["Total", "Partial", "None"][n % 3], None),
        (lambda n: ["Good", "Average", "Poor", "Bad"][n % 4], None),
        (lambda n: "2026-03-01" if n % 7 == 0 else f"2026-01-{n % 28 + 1:02}", None),
        (lambda n: f"2026-{n % 12 + 1:02}-01", None),
        (lambda n: 99 if n % 7 == 0 else 20 + 5 * n, None),
        (
            lambda n: f"2026-01-{n % 28 + 1:02} 10:00" + "Z" * (n % 2),
            "names a time zone in some cells only: the others",
        ),
        (lambda n: 5000 if n == 39 else 100 + 28 * (n == 0) + n % 2, None),
        (lambda n: f"+49 89 {100000 + 37 * n}", None),
        (lambda n: f"10.0.0.{n}", None),
        (lambda n: f"A{n % 20}", None),
        (lambda n: f"may-{n:04}", None),
        (lambda n: f"{1990 + n % 9} {['Jun', 'May'][n % 2]}", "is used as categories, though it looks like dates, as"),
        (lambda n: f"{'ALB' if n % 2 else 'USW'}{n % 20:02}", None),
        (lambda n: f"EUR{n % 20:02}", None),
        (lambda n: f"INV/{n:04}", None),
        (lambda n: f"US${n}k", "is left out, though it looks like numbers, as 'US$0k'"),
        (lambda n: n * n, None),
    ],
)
def test_doubts_are_told(cell: Any, note: str | None, tmp_path: Path) -> None:
    notes = Table().load(write(tmp_path / "t.csv", rows(a=cell, b=lambda n: n % 5))).notes
    assert len(notes) == (note is not None)
    assert all(text.startswith(f"'a' {note}") for text in notes)


@pytest.mark.parametrize(
    ("cells", "note"),
    [
        (
            [-999 if n % 7 == 0 else 20 + n for n in range(40)],
            "has -999, far from all other numbers; if it is a missing",
        ),
        ([998 + n % 2 if n % 7 == 0 else 20 + n for n in range(40)], "has 998, 999, far from all other numbers"),
        ([99.0 if n % 7 == 0 else n / 80 for n in range(40)], "has 99, far from all other numbers; if it is a missing"),
        (
            [None if n == 1 else -1 if n % 7 == 0 else n for n in range(40)],
            "has -1, the only number below 0; if it is a",
        ),
        (
            [dt.date(9999, 12, 31) if n % 7 == 0 else dt.date(2026, 1, 1 + n % 28) for n in range(40)],
            "has 9999-12-31, far",
        ),
        (
            [dt.date(1900, 1, 1) if n % 7 == 0 else dt.date(2026, 1, 1 + n % 28) for n in range(40)],
            "has 1900-01-",
        ),
        (
            pa.array([2**63 - 1 if n % 7 == 0 else 86_400_000 * n for n in range(40)]).cast(pa.timestamp("ms")),
            "has 9.22337e+15 seconds, far from all other dates",
        ),
        ([20 + n * n for n in range(40)], None),
    ],
)
def test_doubts_of_columns_with_types_are_told(cells: Any, note: str | None, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", a=cells, b=[n % 5 for n in range(40)])
    notes = Table().load(path).notes
    assert len(notes) == (note is not None)
    assert all(text.startswith(f"'a' {note}") and text.endswith(", write null there") for text in notes)


def test_times_that_are_counted_are_known_by_their_names(tmp_path: Path) -> None:
    text = rows(
        created_at=lambda n: 1767225600 + 86400 * (n % 39),
        Datum=lambda n: 45600 + n % 39,
        ts=lambda n: 1767225600.5 + n,
    )
    notes = Table().load(write(tmp_path / "t.csv", text)).notes
    assert notes[0].startswith("'created_at' looks like seconds since 1970, and is used as a number")
    assert notes[1].startswith("'Datum' looks like Excel's days since 1900, and is used as a number")
    assert notes[2].startswith("'ts' looks like seconds since 1970, and is used as a number")


@pytest.mark.parametrize(
    ("line", "place", "detail"),
    [
        (1, "row 1 (line 2), column 'a'", "'years' is not a number: a second line of the header, or units? remove the"),
        (20, "row 20 (line 21), column 'a'", "the header stands there again, as 'a'; remove the line"),
        (41, "row 41 (line 42), column 'a'", "'Gesamtsumme' is not a number: a line of totals? remove it"),
    ],
)
def test_lines_that_are_no_rows_are_no_missing_cells(line: int, place: str, detail: str, tmp_path: Path) -> None:
    text = rows(a=lambda n: n / 3, b=lambda n: n % 5).splitlines()
    text.insert(line, {1: "years,EUR", 20: "a,b", 41: "Gesamtsumme,80"}[line])
    with pytest.raises(TableError) as caught:
        Table().load(write(tmp_path / "t.csv", "\n".join(text)))
    assert f"{place}: {detail}" in str(caught.value)
    assert caught.value.remedies == {}


def test_a_line_of_totals_is_found_where_rows_are_excluded(tmp_path: Path) -> None:
    text = rows(a=lambda n: n / 3, bad=lambda n: int(n % 10 == 3)) + "\nTotal,0\n"
    with pytest.raises(TableError, match=r"row 41 .*'Total' is not a number: a line of totals\? remove it") as caught:
        Table(exclude=("bad=1",)).load(write(tmp_path / "t.csv", text))
    assert caught.value.remedies == {}


def test_one_wrong_cell_in_the_first_row_makes_it_no_header(tmp_path: Path) -> None:
    text = rows(a=lambda n: n / 3 if n else "years", b=lambda n: n % 5)
    with pytest.raises(TableError, match=r"row 1 .*column 'a': 'years' is not a number") as caught:
        Table().load(write(tmp_path / "t.csv", text))
    assert "second line of the header" not in str(caught.value)
    assert caught.value.remedies == {"missing": ("usual", "years")}


def test_a_line_is_shown_by_its_own_texts(tmp_path: Path) -> None:
    text = rows(a=lambda n: n / 3, b=lambda n: n % 5, c=lambda n: n % 6)
    path = write(tmp_path / "t.csv", text.replace("a,b,c\n", "a,b,c\n---,---,---\n") + "\n*,80,95\n")
    place = "row 1 (line 2), column 'a': '---' is not a number: a second line of the header"
    assert place in message(Table(), path)


def test_a_row_of_sums_is_pointed_out(tmp_path: Path) -> None:
    text = rows(a=lambda n: n % 7 / 2, b=lambda n: n % 5) + f"\n,{sum(n % 5 for n in range(40))}\n"
    note = "the last row has the sum of all others in 'b': remove it, if it is a line of totals"
    assert Table().load(write(tmp_path / "t.csv", text)).notes == (note,)


def test_a_last_row_no_larger_than_another_is_no_row_of_sums(tmp_path: Path) -> None:
    """Numbers of both signs nearly cancel each other, so that many a row has their sum."""
    text = rows(a=lambda n: n % 7 / 2, b=lambda n: n % 5 - 2 if n < 39 else -2)
    assert sum(n % 5 - 2 for n in range(39)) == -2
    assert Table().load(write(tmp_path / "t.csv", text)).notes == ()


def test_rows_of_blanks_are_pointed_out(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", rows(a=lambda n: n / 3, b=lambda n: n % 5) + "\n,\n , \n")
    note = f"rows without a value in any column (2), the first is {path}, row 41 (line 42): remove them"
    assert Table().load(path).notes == (note,)
    assert Table(drop=("b",)).load(path).notes == ()


def test_cells_in_another_unit_are_no_missing_cells(tmp_path: Path) -> None:
    text = rows(a=lambda n: f"{n}.5M" if n in {3, 17} else f"{n}K", b=lambda n: n % 5)
    with pytest.raises(TableError, match=r"'3\.5M' is not in K, as most of the column is; write all") as caught:
        Table().load(write(tmp_path / "t.csv", text))
    assert caught.value.remedies == {"drop": ("a",)}


def test_numbers_that_are_named_like_codes_are_pointed_out(tmp_path: Path) -> None:
    text = rows(customer_id=lambda n: 100 + n % 9, zip=lambda n: 10001 + n % 7, paid=lambda n: n % 7 / 2)
    wrong = [f"{name!r} is named like a code, and used as a number" for name in ("customer_id", "zip")]
    notes = Table().load(write(tmp_path / "t.csv", text)).notes
    assert [note.partition(";")[0] for note in notes] == wrong
    assert Table(columns={"customer_id": "numeric", "zip": "categorical"}).load(tmp_path / "t.csv").notes == ()
    # pandas writes whole numbers as floats where one is missing in another part.
    assert Table().load(write(tmp_path / "t.csv", rows(id=lambda n: f"{n}.0", b=lambda n: n % 5))).reasons["id"] == (
        "numbers the rows: 0 to 39"
    )


@pytest.mark.parametrize(
    ("cell", "other", "mark", "value", "note"),
    [
        # Three digits behind the point in some cells, and three digits without one in others, are thousands.
        (lambda n: f"{1 + n}.361" if n % 4 else f"{581 + n}", "x", ";", 2361, None),
        (lambda n: f"{1 + n}.361 €" if n % 4 else f"{581 + n} €", "x", ";", 2361, None),
        # No group of thousands begins with 0.
        (lambda n: f"{n}.361", "x", ";", 1.361, None),
        (lambda n: f"-{n},361", "x", ";", -1.361, None),
        # Other columns and the delimiter say what the sign is, or a note asks.
        (lambda n: f"{50 + n}.361", "x", ",", 51.361, None),
        (lambda n: f"{50 + n}.361", "1,5", ";", 51361, None),
        (lambda n: f"{50 + n},361", "1.5", ";", 51361, None),
        (lambda n: f'"{50 + n},361"', "x", ",", 51361, None),
        (lambda n: f"{50 + n}.361", "x", ";", 51.361, "has '50.361' for 50.361; if that is wrong: --dataset.decimal ,"),
        (lambda n: f"{50 + n},361", "x", ";", 51.361, "has '50,361' for 50.361; if that is wrong: --dataset.decimal ."),
        (lambda n: f"{50 + n},361", "x", "|", 51361, "has '50,361' for 50361; if that is wrong: --dataset.decimal ,"),
    ],
)
def test_a_sign_that_may_divide_thousands(
    cell: Any, other: str, mark: str, value: float, note: str | None, tmp_path: Path
) -> None:
    text = f"a{mark}b\n" + "".join(f"{cell(n)}{mark}{n % 9}{other}\n" for n in range(40))
    dataset = Table().load(write(tmp_path / "t.csv", text))
    assert dataset.rows[1, 0] == value
    assert dataset.notes == ((f"'a' {note}",) if note else ())
    if note:
        told = Table(decimal=note[-1]).load(tmp_path / "t.csv")
        assert told.rows[1, 0] == (51361 if value < 100 else 51.361)
        assert told.notes == ()


def test_labels_are_pointed_out_and_excluded(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", rows(a=lambda n: n / 3, is_fraud=lambda n: int(n % 10 == 0)))
    assert Table().load(path).notes == (
        "'is_fraud' looks like a label: 1 in 10.0% of the rows: --dataset.exclude is_fraud=1",
    )
    dataset = Table(exclude=("is_fraud=1",)).load(path)
    assert dataset.input.features == ("a",)
    assert dataset.excluded is not None
    assert dataset.numbers is not None
    assert len(dataset.rows) == 36
    assert dataset.excluded.numbers.tolist() == [0, 10, 20, 30]
    np.testing.assert_array_equal(dataset.excluded.rows[:, 0], [n / 3 for n in (0, 10, 20, 30)])
    np.testing.assert_array_equal(dataset.rows[:, 0], dataset.numbers / 3)
    assert "exclude: no row has is_fraud=2; 'is_fraud' is one of '1', '0'" in message(
        Table(exclude=("is_fraud=2",)), path
    )
    for word, other in (("fraud", "False"), ("True", "False"), ("Yes", "No")):
        text = rows(a=lambda n: n / 3, b=lambda n, both=(word, other): both[n % 10 > 0]).replace("b", "Is Fraud?", 1)
        path = write(tmp_path / "t.csv", text)
        (note,) = Table().load(path).notes
        option = f"--dataset.exclude 'Is Fraud?={word}'"
        assert note == f"'Is Fraud?' looks like a label: {word} in 10.0% of the rows: {option}"
        assert len(Table(exclude=(f"Is Fraud?={word.lower()}",)).load(path).rows) == 36
    # A number is the same number however a file writes it.
    text = rows(a=lambda n: n / 3, is_fraud=lambda n: "1.0" if n % 10 == 0 else "0.0")
    assert len(Table(exclude=("is_fraud=1",)).load(write(tmp_path / "t.csv", text)).rows) == 36
    # As many as say no: a choice.
    text = rows(a=lambda n: n / 3, member=lambda n: "yes" if n % 2 else "no")
    assert Table().load(write(tmp_path / "t.csv", text)).notes == ()
    text = rows(a=lambda n: n / 3, bought=lambda n: "Y" if n == 7 else "N")
    (note,) = Table().load(write(tmp_path / "t.csv", text)).notes
    assert note == "'bought' looks like a label: Y in 2.5% of the rows: --dataset.exclude bought=Y"


def test_notes_that_are_alike_are_told_together(tmp_path: Path) -> None:
    found: dict[str, Any] = {f"is_{i}": lambda n, i=i: int(n == i) for i in range(30)}
    notes = Table().load(write(tmp_path / "t.csv", rows(a=lambda n: n / 3, zip=lambda n: 10 + n % 9, **found))).notes
    assert len(notes) == 5
    assert notes[1].startswith("'is_0' looks like a label: 1 in 2.5% of the rows: --dataset.exclude is_0=1")
    assert notes[4].startswith("what is said of 'is_0' is true of 27 more columns: 'is_3', 'is_4', 'is_5'")
    assert notes[4].endswith("'is_22', ...")


def test_letters_above_numbers_are_a_header(tmp_path: Path) -> None:
    text = rows(a=lambda n: n / 3, w=lambda n: "wxyz"[n % 4])
    assert Table().load(write(tmp_path / "t.csv", text)).notes == ()
    assert Table().load(write(tmp_path / "t.csv", text.replace("a,", "7,", 1))).notes == (
        "the header may be a row, with 'w': a file without a header needs one",
    )


def test_a_text_says_how_it_was_read_where_that_may_be_wrong(tmp_path: Path) -> None:
    text = rows(a=lambda n: n / 3, b=lambda n: "wxyz"[n % 4])
    assert Table().load(write(tmp_path / "t.csv", text)).notes == ()
    for content, note in (
        (text.replace("w", "Köln").encode("cp1252"), "not UTF-8, and read as Windows-1252, as 'Köln'"),
        ("# exported\n\n" + text, "the header is line 3; what is before it is no part of the table"),
        (text.replace("a,b", 'a, "b"'), """the header has "b" with its marks: only " quotes cells"""),
        (text.replace("a,b", "a,'b'"), "the header has 'b' with its marks: only "),
        (text.removeprefix("a,b\n"), "the header may be a row, with '0.0': a file without a header needs one"),
    ):
        (found,) = Table().load(write(tmp_path / "t.csv", content)).notes
        assert found.startswith(note)
