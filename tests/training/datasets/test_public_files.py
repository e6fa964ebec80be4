"""What ten thousand public files have that the others here do not."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from service.errors import FileError
from service.readers import tables
from tests.training.datasets.files import message, rows, write, write_parquet
from training.datasets.table import Table, TableError


def test_a_column_without_a_name_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", rows(a=lambda n: n / 3, b=lambda n: n % 5).replace("a,b", ",b"))
    dataset = Table().load(path)
    assert dataset.input.features == ("b",)
    assert dataset.reasons[""] == "column 1 has no name: give it one to keep it"
    np.testing.assert_array_equal(Table().load_rows(path, dataset.input).rows, dataset.rows)


@pytest.mark.parametrize("mark", ["\t", " "])
def test_the_names_of_rows_that_r_writes_need_no_name(mark: str, tmp_path: Path) -> None:
    """As `write.table` writes them by default, blanks between the cells."""
    lines = [f'"{n}" "a {n % 5}" {n / 3}' for n in range(1, 41)]
    text = "\n".join(['"w" "x"', *lines]).replace('" ', f'"{mark}')
    path = write(tmp_path / "t.txt", text)
    if mark == " ":
        assert "if ' ' divides its lines, say so by --dataset.delimiter ' '" in message(Table(), path)
    dataset = Table(delimiter=mark).load(path)
    assert dataset.input.features == ("w", "x")
    assert dataset.reasons["rownames"] == "numbers the rows: 1 to 40"
    np.testing.assert_array_equal(dataset.rows[:, 1], np.arange(1, 41) / 3)
    for wrong in (text.replace('"x"', '""'), text.replace('"2"', '"1"'), text + f'\n"41"{mark}"a 1"'):
        assert "the header has 2, divided by" in message(Table(delimiter=mark), write(path, wrong))


@pytest.mark.parametrize(
    ("cell", "remedies"),
    [
        (lambda n: "3+" if n % 20 == 0 else n % 3, {"columns": {"a": "categorical"}}),
        (lambda n: f"{n % 10}ab" if n % 13 == 0 else n % 9, {"columns": {"a": "categorical"}}),
        (lambda n: "<.5" if n % 20 == 0 else n % 9 + 0.5, {"missing": ["usual", "<.5"]}),
        (lambda n: "l7" if n == 20 else n % 9, {"missing": ["usual", "l7"]}),
        (lambda n: "l7" if n % 20 == 0 else n + 0.5, {"missing": ["usual", "l7"]}),
        (lambda n: "unknown" if n % 20 == 0 else n % 3 + 0.5, {"missing": ["usual", "unknown"]}),
    ],
)
def test_texts_with_digits_among_few_numbers_are_rather_categories(
    cell: Any, remedies: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "t.csv", rows(a=cell, b=lambda n: n % 5))
    with pytest.raises(TableError, match=r"is not a number.*, as most of the column is") as caught:
        Table(max_categories=30).load(path)
    assert json.loads(json.dumps(caught.value.remedies)) == remedies


def test_a_wide_parquet_file_is_opened_a_few_times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each opening takes time for all columns."""
    path = write_parquet(tmp_path / "t.parquet", **{f"c{i}": [i + n / 3 for n in range(40)] for i in range(600)})
    openings = []
    open_parquet = tables.open_parquet

    def counting(file: Any) -> Any:
        openings.append(file)
        return open_parquet(file)

    monkeypatch.setattr(tables, "open_parquet", counting)
    dataset = Table().load(path)
    assert len(openings) < 10
    np.testing.assert_array_equal(dataset.rows[3], np.arange(600) + 1)


def test_columns_of_one_name_are_named_when_rows_are_read(tmp_path: Path) -> None:
    dataset = Table().load(
        write_parquet(tmp_path / "t.parquet", a=[n / 3 for n in range(40)], b=[n % 5 for n in range(40)])
    )
    numbers = pa.array([n / 7 for n in range(40)])
    pq.write_table(pa.Table.from_arrays([numbers, numbers, numbers], ["a", "b", "a"]), tmp_path / "other.parquet")
    with pytest.raises(FileError, match=r"other\.parquet: 2 columns are named 'a'"):
        Table().load_rows(tmp_path / "other.parquet", dataset.input)


def test_a_column_that_is_dropped_may_be_broken(tmp_path: Path) -> None:
    broken = pa.array([b"\xff\xfe"] * 40, pa.binary()).view(pa.string())
    path = write_parquet(tmp_path / "t.parquet", a=[n / 3 for n in range(40)], b=broken, c=list(range(0, 80, 2)))
    with pytest.raises(FileError, match="column 'b': Invalid UTF8"):
        Table().load(path)
    assert Table(drop=("b",)).load(path).input.features == ("a", "c")


@pytest.mark.parametrize(("count", "said"), [(b"\x16\x52", "41 rows, and has 40"), (b"\x16\x4f", "-40 rows")])
def test_a_parquet_file_that_lies_about_its_rows_is_named(count: bytes, said: str, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", a=list(range(0, 80, 2)))
    before, _, after = path.read_bytes().rpartition(b"\x16\x50")  # The rows of the group, in thrift's compact form.
    path.write_bytes(before + count + after)
    assert f"{path}: says that it has {said}; write it anew" in message(Table(), path)


def test_a_quotation_mark_after_a_wrong_row_is_named_once(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b\n1,2\n3\n" + "4,5\n6\n" * 2000 + '7,"8"x\n')
    assert f"{path}, line 4004: a quotation mark stands amid a cell" in message(Table(), path)
    assert capfd.readouterr() == ("", "")


def test_texts_in_the_first_row_and_others_are_no_second_header(tmp_path: Path) -> None:
    text = rows(a=lambda n: "low" if n % 20 == 0 else n / 3, b=lambda n: "low" if n % 20 == 0 else n % 5)
    with pytest.raises(TableError, match="'low' is not a number, as most of the column is; correct") as caught:
        Table().load(write(tmp_path / "t.csv", text))
    assert [*caught.value.remedies["missing"]] == ["usual", "low"]


@pytest.mark.parametrize(
    ("years", "first", "last"),
    [
        ([62, 75, 99, 0, 6], 1962, 2006),
        ([47, 63, 80, 99, 15], 1947, 2015),
        ([45, 55, 68], 1945, 1968),
        ([24, 25, 26], 2024, 2026),
        ([26, 35, 55], 2026, 2055),
        ([98, 99, 0, 1], 1998, 2001),
        ([68, 70, 71], 1968, 1971),
        ([*range(0, 100, 5)], 1930, 2025),
    ],
)
def test_years_of_two_digits_follow_each_other(years: list[int], first: int, last: int, tmp_path: Path) -> None:
    text = rows(when=lambda n: f"{n % 12 + 1}/{n % 28 + 1}/{years[n % len(years)]:02}", b=lambda n: n % 5)
    path = write(tmp_path / "t.csv", text)
    dataset = Table().load(path)
    ends = [
        dt.datetime.fromtimestamp(edge, dt.UTC).year for edge in (dataset.rows[:, 0].min(), dataset.rows[:, 0].max())
    ]
    assert ends == [first, last]
    np.testing.assert_array_equal(Table().load_rows(path, dataset.input).rows, dataset.rows)


def test_dates_of_iso_8601_may_stand_among_others(tmp_path: Path) -> None:
    text = rows(when=lambda n: f"2026-03-{n % 28 + 1:02}T02:58:41.000Z" if n == 7 else f"3/{n % 28 + 1}/2026")
    dataset = Table().load(write(tmp_path / "t.csv", text))
    assert dataset.rows[7, 0] == dt.datetime(2026, 3, 8, 2, 58, 41, tzinfo=dt.UTC).timestamp()
    assert dataset.rows[8, 0] == dt.datetime(2026, 3, 9, tzinfo=dt.UTC).timestamp()
