"""CSV and Parquet files, and the schema inferred from them."""

import datetime as dt
import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from rich.console import Console

from service.bundle import NumericColumn
from tests.training.datasets.files import (
    categories,
    columns,
    message,
    refused,
    write,
    write_parquet,
)
from training.datasets.digits import Digits
from training.datasets.table import Table, describe

PEOPLE = """\
age, income,sex,member,smoker,rooms,born
31,1e3,f,True,0,1,x
,-2.5,m,FALSE,1,2,"a ""b"", c"
40,NA,?,True,,3,x
"""


@pytest.mark.parametrize("end", [".csv", ".csv.gz", ".tsv", ".CSV"])
def test_text_tables(end: str, tmp_path: Path) -> None:
    text = PEOPLE.replace('"a ""b"", c"', "a").replace(",", "\t") if "tsv" in end else PEOPLE
    raw = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    dataset = Table(columns={"rooms": "categorical"}).load(
        write(tmp_path / f"t{end}", gzip.compress(raw) if end.endswith("gz") else raw)
    )
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


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    dataset = Table().load(write(tmp_path / "t.csv", "a,b\n1,+.5\n2,\n-3,2E-1\n,7.\n"))
    assert list(columns(dataset).values()) == [NumericColumn(name="a"), NumericColumn(name="b")]
    np.testing.assert_array_equal(dataset.rows, [[1, 0.5], [2, np.nan], [-3, 0.2], [np.nan, 7]])


def test_corrections_and_drops(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ",code,flag,zip\n0,1,0,02139\n1,2,1,2139\n2,3,1,10001\n")
    dataset = Table(drop=("",), columns={"code": "categorical", "flag": "numeric", "zip": "categorical"}).load(path)
    assert categories(dataset, "code") == (1, 2, 3)
    assert categories(dataset, "zip") == ("02139", "10001", "2139")
    assert columns(dataset)["flag"] == NumericColumn(name="flag")
    path = write(tmp_path / "t.csv", "id\n9007199254740993\n123456789012345678901\n7\n")
    assert categories(Table(columns={"id": "categorical"}).load(path), "id")[-2:] == ("7", "9007199254740993")


def test_missing_texts_can_be_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b\n-999,NA\n1,x\n2,y\n3,\n")
    dataset = Table(missing=("", "-999")).load(path)
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
        level=pa.array(["10", "9", "10", None, "9"]).dictionary_encode(),
    )
    dataset = Table().load(path)
    assert [column.type for column in columns(dataset).values()] == ["numeric"] * 5 + ["categorical"] * 3
    assert categories(dataset, "flag") == (False, True)
    assert categories(dataset, "text") == (" x", "2", "x")
    assert categories(dataset, "level") == ("10", "9")
    np.testing.assert_array_equal(dataset.rows[:, 0], [1.5, np.nan, np.nan, 0, 2.5])
    np.testing.assert_array_equal(dataset.rows[:, 3], [2.0**60, 2, 3, 4, np.nan])
    assert not np.signbit(dataset.rows[3, 0])


def test_parquet_text_is_numeric_only_when_declared(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", a=["1", "2", "3.5"])
    assert categories(Table().load(path), "a") == ("1", "2", "3.5")
    np.testing.assert_array_equal(Table(columns={"a": "numeric"}).load(path).rows, [[1], [2], [3.5]])


def test_a_broken_number_is_named_with_its_line(tmp_path: Path) -> None:
    lines = ["note,age", '"one\ntwo",10', "", *(f"x,{n}" for n in range(30)), "x,l7", "x,18"]
    text = refused(tmp_path / "t.csv", "\n".join(lines))
    assert "t.csv, row 32 (line 35), column 'age': 'l7' is not a number, as most of the column is" in text
    text = refused(tmp_path / "t.csv", "a\n1\n2\nx\ny\n", columns={"a": "numeric"})
    assert "row 3 (line 4), column 'a': 'x' is not a number" in text
    dataset = Table(columns={"a": "categorical"}).load(write(tmp_path / "t.csv", "a\n0\n1\n2\n3+\n"))
    assert categories(dataset, "a") == ("0", "1", "2", "3+")
    path = write_parquet(tmp_path / "t.parquet", a=["1", "2", "3", "oops"])
    assert "t.parquet, row 4, column 'a': 'oops'" in message(Table(), path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "empty"),
        ("a,b\n", "no rows"),
        ("a,b\n1,2\n\n3\n4,5\n", "row 2 (line 4): 1 cells; the header has 2"),
        ("a,b\n1,2\n3,4,5\n", "row 2 (line 3): 3 cells; the header has 2"),
        ('a,b\n1,"2\n3,4\n5,6\n', "line 2: unexpected end of data"),
        (b"a,b\n1,2\n3,\xff\n", "row 2 (line 3): not UTF-8"),
        (b"a,\xff\n1,2\n", "header (line 1): not UTF-8"),
        ("a,b,a\n1,2,3\n", "2 columns are named 'a'"),
        ("a,,b\n1,2,3\n", "column 2 has no name"),
        ("a,b\n1,?\n2,NA\n", "column 'b': every cell is missing"),
        ("a\n1\n2\n-inf\n", "row 3 (line 4), column 'a': -inf is infinite"),
        ("a\n1\n2\n1e999\n", "row 3 (line 4), column 'a': inf is infinite"),
        ("a\n1\n2\n9007199254740993\n", "row 3 (line 4), column 'a': float64 cannot hold 9007199254740993"),
        ("a\n1\n2\n123456789012345678901\n", "row 3 (line 4), column 'a': float64 cannot hold 1234567890123456789"),
        ("a\n1.5\n2\n9007199254740993\n", "row 3 (line 4), column 'a': float64 cannot hold 9007199254740993"),
        ("a\n2020-01-02\n2020-01-03 10:00\n", "column 'a': dates"),
        ("a\n" + "".join(f"word{n}\n" for n in range(65)), "column 'a': 65 distinct texts"),
    ],
)
def test_bad_text_tables(content: str | bytes, reason: str, tmp_path: Path) -> None:
    text = refused(tmp_path / "t.csv", content)
    assert str(tmp_path / "t.csv") in text
    assert reason in text


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([dt.date(2020, 1, 1)]), "date32[day] is neither"),
        (pa.array([dt.datetime(2020, 1, 1, tzinfo=dt.UTC)]), "timestamp[us, tz=UTC] is neither"),
        (pa.array([[1, 2]]), "list<"),
        (pa.array([{"b": 1}]), "struct<"),
        (pa.array([b"x"]), "binary is neither"),
        (pa.nulls(1), "every cell is missing"),
        (pa.array([math.nan]), "every cell is missing"),
    ],
)
def test_bad_parquet_columns(column: pa.Array, reason: str, tmp_path: Path) -> None:
    text = message(Table(), write_parquet(tmp_path / "t.parquet", a=column))
    assert "t.parquet, column 'a'" in text
    assert reason in text


def test_bad_parquet_cells(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", a=[1.0, None, math.inf])
    assert "t.parquet, row 3, column 'a': inf is infinite" in message(Table(), path)
    path = write_parquet(tmp_path / "t.parquet", a=[1, None, 2, -(2**53) - 1])
    assert "row 4, column 'a': float64 cannot hold -9007199254740993" in message(Table(), path)
    assert len(categories(Table(columns={"a": "categorical"}).load(path), "a")) == 3
    assert "t.parquet: cannot be read" in message(Table(), write(path, path.read_bytes()[:-9]))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"drop": ("c",)}, "drop: no column 'c' among a, b"),
        ({"columns": {"c": "numeric"}}, "columns: no column 'c' among a, b"),
        ({"drop": ("a",), "columns": {"a": "numeric"}}, "columns: no column 'a' among b"),
        ({"drop": ("a", "b")}, "no column is left"),
    ],
)
def test_options_that_name_no_column(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    assert reason in refused(tmp_path / "t.csv", "a,b\n1,2\n", **options)


def test_other_bad_tables(tmp_path: Path) -> None:
    assert "t.xlsx: the name ends in none of" in refused(tmp_path / "t.xlsx", "a\n1\n")
    assert "t.csv.gz: cannot be read" in refused(tmp_path / "t.csv.gz", gzip.compress(b"a\n1\n2\n")[:-4])
    many = "a\n" + "".join(f"word{n}\n" for n in range(65))
    assert "max_categories (2)" in refused(tmp_path / "t.csv", "a\nx\ny\nz\n", max_categories=2)
    assert len(categories(Table(columns={"a": "categorical"}).load(write(tmp_path / "t.csv", many)), "a")) == 65


def test_describe(tmp_path: Path) -> None:
    content = "n,[bold]\n" + "".join(f"{n},k{n % 7}\n" for n in range(9)) + ",k1\n"
    console = Console(width=100)
    with console.capture() as capture:
        console.print(describe(Table().load(write(tmp_path / "t.csv", content))))
    _, number, category = (line.split("│") for line in capture.get().splitlines() if "│" in line or "┃" in line)
    assert [cell.strip() for cell in number[1:-1]] == ["n", "numeric", "0 … 8", "10.0%"]
    assert [cell.strip() for cell in category[1:-1]] == [
        "[bold]",
        "categorical",
        "k0, k1, k2, k3, k4, … (7 in all)",
        "",
    ]
    with pytest.raises(TypeError):
        describe(Digits().load(None))
