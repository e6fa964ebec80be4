"""Tables: what is inferred from files and why, and what is told."""

import datetime as dt
import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from rich.console import Console

from service.bundle import CategoricalColumn, NumericColumn, TabularInput, TimeFormat
from service.errors import FileError
from tests.training.datasets.files import categories, columns, message, rows, write, write_parquet
from training.datasets.table import Table, TableError
from training.first_look import show

PEOPLE = """\
age, income,sex,member,smoker,rooms,born
31,1e3,f,True,0,1,x
,-2.5,m,FALSE,1,2,"a ""b"", c"
40,NA,?,True,,3,x
"""


def texts(*categories: str) -> CategoricalColumn:
    return CategoricalColumn(name="a", categories=categories)


@pytest.mark.parametrize("end", [".csv", ".csv.gz", ".csv.zst", ".tsv", ".CSV", ".txt", ""])
def test_text_tables(end: str, tmp_path: Path) -> None:
    mark = {".tsv": "\t", ".txt": ";", ".CSV": "|"}.get(end, ",")
    text = PEOPLE.replace('"a ""b"", c"', "a").replace(",", mark) if mark != "," else PEOPLE
    raw = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    pack = {".csv.gz": gzip.compress, ".csv.zst": lambda raw: pa.compress(raw, "zstd", asbytes=True)}.get(end, bytes)
    dataset = Table(columns={"rooms": "categorical"}).load(write(tmp_path / f"t{end}", pack(raw)))
    assert {column.type for column in columns(dataset).values()} == {"categorical"}
    assert list(columns(dataset)) == ["age", "income", "sex", "member", "smoker", "rooms", "born"]
    assert categories(dataset, "age") == (31, 40)
    assert categories(dataset, "income") == (-2.5, 1000.0)
    assert categories(dataset, "sex") == ("f", "m")
    assert categories(dataset, "member") == (False, True)
    assert [type(category) for category in categories(dataset, "member")] == [bool, bool]
    assert categories(dataset, "smoker") == (0, 1)
    assert categories(dataset, "rooms") == (1, 2, 3)
    expected = [[0, 1, 0, 1, 0, 0, 1], [np.nan, 0, 1, 0, 1, 1, 0], [1, np.nan, np.nan, 1, np.nan, 2, 1]]
    np.testing.assert_array_equal(dataset.rows, expected)


@pytest.mark.parametrize("mark", [",", ";", "\t", "|", "^", "~", "\x01"])
def test_the_delimiter_is_found(mark: str, tmp_path: Path) -> None:
    text = mark.join(["a", "b"]) + "\n" + "".join(f"{n / 3:.2f}{mark}{'wxyz'[n % 4]}\n" for n in range(40))
    dataset = Table().load(write(tmp_path / "t.csv", text))
    assert dataset.input.features == ("a", "b")
    assert dataset.notes == ()
    # One decimal comma in every row divides the rows, but not the header.
    commas = mark if mark != "," else ";"
    text = text.replace(mark, commas).replace(".", ",")
    dataset = Table().load(write(tmp_path / "t.csv", text))
    assert dataset.input.features == ("a", "b")
    assert columns(dataset)["a"] == COMMA
    assert dataset.notes == ()


DAYS = NumericColumn(name="a", time=TimeFormat(order="ymd"))
COMMA = NumericColumn(name="a", decimal=",", thousands=".")


@pytest.mark.parametrize(
    ("cell", "column", "reason"),
    [
        (lambda n: f"{n % 7 + 0.5:g}", NumericColumn(name="a"), "numbers"),
        (lambda n: "NULL" if n % 5 == 0 else n % 3, NumericColumn(name="a"), "numbers; missing where 'NULL'"),
        (lambda n: "-" if n == 9 else n % 9, NumericColumn(name="a"), "numbers; missing where '-'"),
        (lambda n: f'"{n},{n}5"', COMMA, "numbers, as 0,05"),
        (lambda n: f'"1.{n:03},5"', COMMA, "numbers, as 1.000,5"),
        (lambda n: f'"{n + 1},000"', NumericColumn(name="a", thousands=","), "numbers, as 1,000"),
        (lambda n: f"€{n}" if n % 3 else n, NumericColumn(name="a", affixes=("€",)), "numbers, as €1"),
        (lambda n: f'"R$ {n},{n}5"', COMMA.model_copy(update={"affixes": ("R$",)}), "numbers, as R$ 0,05"),
        (lambda n: f'"{n},{n}5 руб."', COMMA.model_copy(update={"affixes": ("руб.",)}), "numbers, as 0,05 руб."),
        (lambda n: f"Rs. {n / 8}", NumericColumn(name="a", affixes=("Rs.",), thousands=","), "numbers, as Rs. 0.0"),
        (lambda n: f"$({n})" if n % 3 else f"${n}", NumericColumn(name="a", affixes=("$",)), "numbers, as $0"),
        (lambda n: f"({n}) €" if n % 3 else f"{n} €", NumericColumn(name="a", affixes=("€",)), "numbers, as 0 €"),
        (lambda n: f"{n}%", NumericColumn(name="a", affixes=("%",)), "numbers, as 0%"),
        (lambda n: f"{n / 8} kg", NumericColumn(name="a", affixes=("kg",), thousands=","), "numbers, as 0.0 kg"),
        (lambda n: f"{n / 8}\u00a0€", NumericColumn(name="a", affixes=("€",), thousands=","), "numbers, as 0.0\u00a0€"),
        (lambda n: f'"1,23,4{n:02}"', NumericColumn(name="a", thousands=","), "numbers, as 1,23,400"),
        (lambda n: f"{n + 1}.5-" if n % 2 else n, NumericColumn(name="a"), "numbers"),
        (lambda n: f"{n // 3}:{n:02}:59", NumericColumn(name="a", time=TimeFormat(order="clock")), "times of day"),
        (lambda n: f"{n}:{n:02}:59", NumericColumn(name="a", time=TimeFormat(order="elapsed")), "durations"),
        (lambda n: chr(0xFF11 + n % 9) + "．５", NumericColumn(name="a"), "numbers"),
        (lambda n: chr(0x661 + n % 9) * 2 if n % 2 else n, NumericColumn(name="a"), "numbers"),
        (lambda n: f"\u200e{n % 7}", NumericColumn(name="a"), "numbers"),
        (lambda n: f"- {n % 7}" if n % 2 else n, NumericColumn(name="a"), "numbers"),
        (lambda n: "０" + chr(0xFF11 + n % 2), texts("０１", "０２"), "texts"),
        (lambda n: "#DIV/0!" if n == 4 else n % 9, NumericColumn(name="a"), "numbers; missing where '#DIV/0!'"),
        (lambda n: f"2026-01-{n % 28 + 1:02}", DAYS, "dates, as 2026-01-01"),
        (lambda n: f"{n % 28 + 1}.2.2026", NumericColumn(name="a", time=TimeFormat(order="dmy")), "dates, as 1.2.2026"),
        (lambda n: f"{n % 24}:15", NumericColumn(name="a", time=TimeFormat(order="clock")), "times of day"),
        (lambda n: ["none", "plus", "-"][n % 3], texts("-", "none", "plus"), "texts"),
        (lambda n: ["02116", "2116"][n % 2], texts("02116", "2116"), "digits with leading zeros"),
        (lambda n: f'="0{n % 2}11"', texts("0011", "0111"), "digits with leading zeros"),
        (lambda n: f'"=""{n},{n}5"""', COMMA, "numbers, as 0,05"),
        (lambda n: ["5%", "7%"][n % 2], texts("5%", "7%"), "texts"),
        (lambda n: f"A{n}", None, "identifies rows: every text is another"),
        (lambda n: 70000 - n, None, "numbers the rows: 69961 to 70000"),
        (lambda n: ["none", "plus", "NA"][n % 3], texts("none", "plus"), "texts; missing where 'NA'"),
        (lambda n: r"\N" if n == 9 else n % 9, NumericColumn(name="a"), r"numbers; missing where '\\N'"),
        (lambda n: "-1.#IND" if n == 4 else n % 9, NumericColumn(name="a"), "numbers; missing where '-1.#IND'"),
        (lambda n: "EUR", None, "constant: 'EUR' in every row"),
        (lambda n: "x" if n % 3 else "", None, "constant: 'x' in every row that has a value"),
        (lambda n: 7, None, "constant: 7 in every row"),
        (lambda n: "", None, "every cell is missing"),
        (lambda n: "n/a", None, "every cell is missing"),
    ],
)  # fmt: skip
def test_what_a_column_is_and_why(cell: Any, column: Any, reason: str, tmp_path: Path) -> None:
    dataset = Table().load(write(tmp_path / "t.csv", rows(a=cell, b=lambda n: n % 5)))
    assert columns(dataset).get("a") == column
    assert dataset.reasons["a"] == reason
    assert isinstance(dataset.input, TabularInput)
    assert dataset.input.dropped == (() if column else ("a",))


def test_texts_are_grouped_by_their_frequency(tmp_path: Path) -> None:
    text = rows(a=lambda n: f"w{min(n % 12, 9)}", b=lambda n: n % 5)
    dataset = Table(max_categories=4).load(write(tmp_path / "t.csv", text))
    assert categories(dataset, "a") == ("w0", "w1", "w9", "other")
    assert dataset.reasons["a"] == "10 texts: the 3 most frequent, and 57% as 'other'"
    assert (dataset.rows[:, 0] == 3).sum() == 23
    assert len(categories(Table(columns={"a": "categorical"}, max_categories=4).load(tmp_path / "t.csv"), "a")) == 10


def test_one_huge_cell_does_not_stop_a_file(tmp_path: Path) -> None:
    text = rows(a=lambda n: "1e999" if n == 7 else n / 3, b=lambda n: n % 5)
    dataset = Table().load(write(tmp_path / "t.csv", text))
    assert dataset.notes == ("'a': infinite cells (1) count as missing, in rows to score too",)
    assert np.flatnonzero(np.isnan(dataset.rows[:, 0])).tolist() == [7]
    np.testing.assert_array_equal(Table().load_rows(tmp_path / "t.csv", dataset.input).rows, dataset.rows)
    clean = Table().load(write(tmp_path / "clean.csv", rows(a=lambda n: n / 3, b=lambda n: n % 5)))
    with pytest.raises(TableError, match=r"row 8 \(line 9\), column 'a': is too large a number"):
        Table().load_rows(tmp_path / "t.csv", clean.input)


def test_hours_and_weekdays_of_dates(tmp_path: Path) -> None:
    text = rows(at=lambda n: f"2026-01-{n % 28 + 1:02} {n % 24}:30", b=lambda n: n % 5)
    dataset = Table(cyclic=("at",)).load(write(tmp_path / "t.csv", text))
    assert dataset.input.features == ("at", "at.hour", "at.weekday", "b")
    np.testing.assert_array_equal(
        dataset.rows[3, :3], [dt.datetime(2026, 1, 4, 3, 30, tzinfo=dt.UTC).timestamp(), 3.5, 6]
    )
    only_days = rows(at=lambda n: f"2026-01-{n % 28 + 1:02}", b=lambda n: n % 5)
    assert Table(cyclic=("at",)).load(write(tmp_path / "t.csv", only_days)).input.features == ("at", "at.weekday", "b")
    assert "cyclic: 'b' is no column of dates (numbers)" in message(Table(cyclic=("b",)), tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("start", "end"),
    [("\ufeff\ufeff", ""), ("sep=,\n", ""), ("Report\n\n", ""), ("  \n\n", ""), ("Report,,\n", ""), ("", ",")],
)
def test_lines_around_a_table_are_none_of_it(start: str, end: str, tmp_path: Path) -> None:
    text = rows(a=lambda n: n / 3, b=lambda n: "wxyz"[n % 4], c=lambda n: n % 5) + "\n"
    whole = Table().load(write(tmp_path / "t.csv", text))
    head, body = text.split("\n", 1)
    dataset = Table().load(write(tmp_path / "t.csv", f"{start}{head}\n" + body.replace("\n", f"{end}\n")))
    assert dataset.input.features == whole.input.features
    np.testing.assert_array_equal(dataset.rows, whole.rows)


@pytest.mark.parametrize("balance", ["1.234,56", "1234"])
@pytest.mark.parametrize("first", ["Account:;DE1\n", "Balance:;1,5\nAccount:;DE1\n"])
def test_lines_of_an_account_above_a_table_are_none_of_it(first: str, balance: str, tmp_path: Path) -> None:
    body = "".join(f"{n % 28 + 1:02}.03.2026;{'xy'[n % 2]};{n},{n % 9}5\n" for n in range(40))
    text = f"{first}From:;01.03.2026\nTo:;28.03.2026\nBalance of 28.03.2026:;{balance}\n\nday;kind;amount\n{body}"
    dataset = Table().load(write(tmp_path / "t.csv", text))
    assert dataset.input.features == ("day", "kind", "amount")
    assert dataset.rows[:, 2].tolist() == [n + (n % 9 * 10 + 5) / 100 for n in range(40)]
    assert dataset.notes == (
        f"the header is line {6 + first.count(chr(10)) - 1}; what is before it is no part of the table",
    )


@pytest.mark.parametrize("end", ["\n\x1a", "\r\n\x1a", "\x1a"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_mark_by_which_dos_ends_a_file_is_none_of_it(pack: Any, end: str, tmp_path: Path) -> None:
    text = rows(a=lambda n: n / 3, b=lambda n: "wxyz"[n % 4]).rstrip()
    whole = Table().load(write(tmp_path / "t.csv", text))
    dataset = Table().load(write(tmp_path / "t.csv", pack((text + end).encode())))
    assert dataset.input == whole.input
    np.testing.assert_array_equal(dataset.rows, whole.rows)


def test_parts_may_have_types_that_go_together(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.arange(90), "b": ["x", "y", "z"] * 30})
    frame[:30].to_parquet(tmp_path / "0.parquet")
    frame[30:60].astype({"a": float, "b": "category"}).to_parquet(tmp_path / "1.parquet")
    frame[60:].assign(b=None).to_parquet(tmp_path / "2.parquet")
    rows = Table(columns={"a": "numeric"}).load(tmp_path).rows
    np.testing.assert_array_equal(rows[:, 0], np.arange(90))
    assert np.isnan(rows[60:, 1]).all()


def test_corrections_and_drops(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ",code,flag,zip\n0,1,0,02139\n1,2,1,2139\n2,3,1,10001\n")
    dataset = Table(drop=("",), columns={"code": "categorical", "flag": "numeric", "zip": "categorical"}).load(path)
    assert categories(dataset, "code") == (1, 2, 3)
    assert categories(dataset, "zip") == ("02139", "10001", "2139")
    assert columns(dataset)["flag"] == NumericColumn(name="flag")
    path = write(tmp_path / "t.csv", "id\n9007199254740993\n123456789012345678901\n7\n")
    assert categories(Table().load(path), "id")[-2:] == ("7", "9007199254740993")
    dataset = Table(missing=("", "-999")).load(write(tmp_path / "t.csv", "a,b\n-999,NA\n1,x\n2,y\n3,\n"))
    assert categories(dataset, "b") == ("NA", "x", "y")
    assert np.isnan(dataset.rows[[0, 3], [0, 1]]).all()


def test_parquet(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "t.parquet",
        number=pa.array([1.5, math.nan, None, -0.0, 2.5], pa.float32()),
        half=pa.array(np.arange(5, dtype=np.float16)),
        decimal=pa.array([1, 2, 3, None, 5], pa.decimal128(9, 2)),
        big=pa.array([2**60, 2, 3, 4, None]),
        unsigned=pa.array([1, 2, 3, 4, 2**63], pa.uint64()),
        flag=[True, None, False, True, True],
        text=pa.array(["2", "x", "?", None, " x"], pa.large_string()),
        level=pa.array(["a", "9", "a", None, "9"]).dictionary_encode(),
        at=pa.array([dt.datetime(2026, 1, day, tzinfo=dt.UTC) for day in range(1, 6)]),
    )
    dataset = Table().load(path)
    assert [column.type for column in columns(dataset).values()] == [*["numeric"] * 5, *["categorical"] * 3, "numeric"]
    assert categories(dataset, "flag") == (False, True)
    assert categories(dataset, "text") == ("2", "x")
    assert categories(dataset, "level") == ("9", "a")
    assert columns(dataset)["at"] == NumericColumn(name="at", time=TimeFormat(order="ymd", zone=True))
    np.testing.assert_array_equal(dataset.rows[:, 0], [1.5, np.nan, np.nan, 0, 2.5])
    np.testing.assert_array_equal(dataset.rows[:, 3], [2.0**60, 2, 3, 4, np.nan])
    assert not np.signbit(dataset.rows[3, 0])


def test_categories_of_pandas(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.arange(90) % 7, "b": ["x", "y", "z"] * 30, "c": np.arange(90) % 8})
    frame.astype({"a": "category", "b": "category"}).to_parquet(tmp_path / "t.parquet")
    dataset = Table().load(tmp_path / "t.parquet")
    assert categories(dataset, "a") == tuple(range(7))
    assert categories(dataset, "b") == ("x", "y", "z")
    assert columns(dataset)["c"] == NumericColumn(name="c")
    np.testing.assert_array_equal(Table().load_rows(tmp_path / "t.parquet", dataset.input).rows, dataset.rows)


@pytest.mark.parametrize(
    "told",
    [b"", b"{", b"[" * 10**5, b"\xff", b"3", b"[1]", b'{"index_columns": 5}', b'{"columns": [{"name": "a"}, {}, 3]}'],
)
def test_what_other_programs_write_for_pandas_is_no_fault(told: bytes, tmp_path: Path) -> None:
    table = pa.table({"a": np.arange(90) / 4, "b": ["x", "y", "z"] * 30}).replace_schema_metadata({b"pandas": told})
    pq.write_table(table, tmp_path / "t.parquet")
    assert Table().load(tmp_path / "t.parquet").input.features == ("a", "b")


def test_parts_and_pandas_indexes(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.arange(90) / 4, "b": ["x", "y", "z"] * 30})
    for part, kind in enumerate("pqr"):
        folder = tmp_path / "rows" / f"kind={kind}"
        folder.mkdir(parents=True)
        frame[30 * part : 30 * part + 30].sample(frac=1, random_state=0).to_parquet(folder / "part-0.snappy.parquet")
    write(tmp_path / "rows" / "_SUCCESS", "")
    dataset = Table().load(tmp_path / "rows")
    assert dataset.input.features == ("a", "b", "kind")
    assert dataset.reasons["__index_level_0__"] == "pandas' index"
    assert sorted(dataset.rows[:, 0]) == frame["a"].tolist()
    assert dataset.rows[:, 2].tolist() == [0] * 30 + [1] * 30 + [2] * 30
    for part in range(2):
        frame[["a"]][45 * part : 45 * part + 45].to_csv(tmp_path / f"{part}.csv", index=False)
    assert Table().load(tmp_path / "*.csv").rows[:, 0].tolist() == frame["a"].tolist()
    write(tmp_path / "2.csv", "")  # Spark writes such parts where no row is left.
    assert len(Table().load(tmp_path / "*.csv").rows) == 90
    write(tmp_path / "1.csv", "a\n" + "1\n" * 20 + "x\n" + "2\n" * 24)
    assert "1.csv, row 21 (line 22), column 'a': 'x' is not a number" in message(Table(), tmp_path / "*.csv")


@pytest.mark.parametrize("end", ["csv", "parquet"])
@pytest.mark.parametrize("more", ["0", "1"])
def test_a_column_that_some_parts_lack(end: str, more: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.arange(60) / 4, "b": ["x", "y", "z"] * 20, "when": "2026", "more": 1})
    for part in "01":
        columns = list(frame) if part == more else ["b", "a"]
        half = frame[columns][30 * int(part) : 30 * int(part) + 30]
        path = tmp_path / f"{part}.{end}"
        half.to_csv(path, index=False) if end == "csv" else half.to_parquet(path, index=False)
    with pytest.raises(TableError) as caught:
        Table(drop=("when",)).load(tmp_path)
    other = tmp_path / f"{1 - int(more)}.{end}"
    assert caught.value.problems == [
        f"{tmp_path}, column 'more': {other} has no such column; drop the column",
    ]
    assert caught.value.remedies == {"drop": ("when", "more")}
    dataset = Table(**caught.value.remedies).load(tmp_path)
    assert sorted(dataset.input.features) == ["a", "b"]
    np.testing.assert_array_equal(Table().load_rows(tmp_path, dataset.input).rows, dataset.rows)
    assert f"{other}: no columns are named 'more'" in message(Table(exclude=("more=1",)), tmp_path)
    write(tmp_path / "2.csv", "name,comment\nx,y\n")
    assert "2.csv: other columns than" in message(Table(), tmp_path)


def test_files_that_windows_and_excel_keep_are_no_parts(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", rows(a=lambda n: n / 3, b=lambda n: n % 5))
    for name in ("Thumbs.db", "desktop.ini", "~$a.csv", ".DS_Store", "_SUCCESS"):
        write(tmp_path / name, "\0")
    assert len(Table().load(tmp_path).rows) == 40


def test_other_rows_are_read_by_the_rules_of_the_model(tmp_path: Path) -> None:
    trained = Table().load(write(tmp_path / "t.csv", rows(a=lambda n: f'"{n},5"', b=lambda n: "xyz"[n % 3])))
    other = write(tmp_path / "other.csv", "b;more;a\ny;1;1.000,25\nz;2;3\n")
    np.testing.assert_array_equal(Table().load_rows(other, trained.input).rows, [[1000.25, 1], [3, 2]])
    write(other, "b;a\ny;1.5\n\nw;2\n")
    with pytest.raises(FileError) as caught:
        Table().load_rows(other, trained.input)
    assert "other.csv, row 1 (line 2), column 'a': '1.5' is not a number (1 such cells)" in str(caught.value)
    assert "other.csv, row 2 (line 4), column 'b': 'w' is not a known category" in str(caught.value)


def test_the_schema_is_shown(tmp_path: Path) -> None:
    content = "n,[bold],same\n" + "".join(f"{n},k{n % 7},x\n" for n in range(9)) + ",k1,x\n"
    console = Console(width=120)
    with console.capture() as capture:
        show(Table().load(write(tmp_path / "t.csv", content)), console)
    lines = [line.split("│")[1:-1] for line in capture.get().splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in line] for line in lines] == [
        ["n", "numeric", "0 … 8", "10.0%", "numbers"],
        ["[bold]", "categorical", "k0, k1, k2, k3, k4, … (7 in all)", "", "texts"],
        ["same", "left out", "", "", "constant: 'x' in every row"],
    ]
