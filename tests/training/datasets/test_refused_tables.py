"""Tables that cannot be used: all that is wrong is told at once, with the place and the remedy."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pytest

from tests.training.datasets.files import categories, message, refused, rows, write, write_parquet
from training.datasets.table import Table, TableError
from training.first_look import remedied


def test_all_problems_are_told_at_once_with_what_solves_them(tmp_path: Path) -> None:
    note = '"one\ntwo"'
    text = rows(
        note=lambda n: note,
        when=lambda n: f"{n % 9 + 1}/{n % 7 + 1}/2026",
        amount=lambda n: f"{'€$'[n % 2]}{n}",
        size=lambda n: "l7" if n == 31 else n,
        xs=lambda n: n / 4,
    )
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(TableError) as caught:
        Table(drop=("xs",)).load(path)
    wrong = [
        "column 'when': day and month could be exchanged in every date, as in 1/1/2026; say which, by day_first",
        "row 2 (line 4), column 'amount': amounts in $ and €, which are no one unit; declare what the column is",
        "row 32 (line 64), column 'size': 'l7' is not a number, as most of the column is; correct the cells",
    ]
    assert len(caught.value.problems) == 3
    for problem, start in zip(caught.value.problems, wrong, strict=True):
        assert problem.startswith(f"{path}, {start}")
    given = ["--data", str(path), "--dataset.drop", "xs", "--dataset.columns={}"]
    command = remedied("table", given, caught.value.remedies)
    assert command.startswith(f"lowerbound train table --data {path} --dataset.drop xs --dataset.day_first true")
    remedies = json.loads(json.dumps(caught.value.remedies))
    assert Table(drop=("xs",), **remedies).load(path).input.features == ("when", "amount", "size")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "empty"),
        ("a,b\n", "no rows"),
        (
            "a,b\n1,2\n\n3\n4,5\n",
            "row 2: line 4 has 1 cell; the header has 2, divided by ','; correct",
        ),
        ("a,b\n1,2\n3,4,5\n", "row 2: line 3 has 3 cells; the header has 2"),
        ('a,b\n1,"2\n3,4\n5,6\n', "line 2: a quotation mark that begins a cell is never closed"),
        (b"a,b\n1,x\n2,\x8f\n", "not UTF-8, nor Windows-1252 by the byte 0x8f on line 3; say its encoding"),
        ("имя\nИван\n".encode("cp1251"), "say its encoding, by the option encoding, such as cp1251 (Cyrillic)"),
        ("city,population\nМосква,13010112\nKazan,1308660\n".encode("cp1251"), "nor Windows-1252 by its letters"),
        ('a,b\n1,"2"x\n3,4\n', "line 2: a quotation mark stands amid a cell"),
        (b"PK\3\4", "a spreadsheet or an archive"),
        (b"\x93NUMPY\1", "a NumPy array, for the recipe arrays"),
        (b"a,b\n1,x\0y\n", "neither text nor Parquet; byte 8 is NUL"),
        ("a,b\n" + "1,x\n" * 2000 + "2\0,y\n", "neither text nor Parquet; byte 8006 is NUL"),
        (b"\x89PNG\r\n\x1a\n\0", "a picture, for the recipe images; save it"),
        (b"\xff\xd8\xff\xe0", "a picture, for the recipe images; save it"),
        (b"\xff\xff\xff\xff\xb0\0\0\0", "a stream of Arrow; save it as CSV or Parquet"),
        ('"a,b"\n"1,x"\n"2,y"\n', "each line stands in quotation marks as a whole, with ',' within; remove these"),
        ("<?xml version='1.0'?>\n<a/>\n", "XML or HTML"),
        ("a:b\n1:2\n3:4\n", "if ':' divides its lines, say so by --dataset.delimiter ':'; if not, by ','"),
        ("a  b\n1  2\n13 4\n", "divided by several blanks"),
        ('{"a": 1}\n', "JSON; save it as CSV or Parquet"),
        ("a,b", "no rows"),
        ("a,b,a\n1,2,3\n", "column 'a': 2 columns are named so; give them other names; drop the column"),
        (
            "85,1,1\n4,0,2\n5,1,3\n",
            "the header has '1' more than once, as a row would; a file without a header needs one",
        ),
        ("a,,\n1,2.5,3.5\n4,5.5,6.5\n", "column '': 2 columns are named so"),
        ("x" * 1001 + ",b\n" + "1,2\n2,3\n", "its name has 1,001 characters; give it one of at most 1,000; drop the"),
        (
            "a\n" + "".join(f"ca. {n}.5\n" for n in range(40)),
            "no column is left ('a' is left out, though it looks like numbers, as 'ca. 0.5': write each as 1234.5",
        ),
        ("a,b\n1,?\n1,NA\n", "no column is left ('a': constant: 1 in every row; 'b': every cell is missing)"),
    ],
)
def test_bad_text_tables(content: str | bytes, reason: str, tmp_path: Path) -> None:
    text = refused(tmp_path / "t.csv", content)
    assert str(tmp_path / "t.csv") in text
    assert reason in text


@pytest.mark.parametrize("encoding", ["zlib", "hex", "rot13", "nonsense"])
def test_an_encoding_that_is_none_of_texts_is_named(encoding: str, tmp_path: Path) -> None:
    found = refused(tmp_path / "t.csv", "a,b\n1,2\n", encoding=encoding)
    assert f"t.csv: not {encoding} (" in found


def test_another_file_beside_a_table_is_named_with_a_pattern_for_the_others(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "a\n1\n")
    write(tmp_path / "README.md", "Rows of March")
    write(tmp_path / "a.csv.bak", "a\n1\n")
    found = message(Table(), tmp_path)
    assert f"{tmp_path / 'README.md'}, {tmp_path / 'a.csv.bak'}: no table, beside 1 others; a table's name" in found
    assert found.endswith(f"by a pattern such as '{tmp_path}/part-*.csv'")


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "pipe: a pipe or a device, which can be read only once; write it to" in message(Table(), tmp_path / "pipe")


def test_bad_parquet_tables(tmp_path: Path) -> None:
    for column, kind in (([[1, 2]], "list<"), ([{"b": 1}], "struct<"), ([b"\xff"], "binary")):
        text = message(Table(), write_parquet(tmp_path / "t.parquet", a=pa.array(column)))
        assert f"t.parquet, column 'a': {kind}" in text
        assert "is neither numbers, texts nor dates; drop the column" in text
    path = write_parquet(tmp_path / "t.parquet", a=[1, None, 2, -(2**53) - 1])
    assert "row 4, column 'a': float64 cannot hold -9007199254740993" in message(Table(), path)
    assert len(categories(Table(columns={"a": "categorical"}).load(path), "a")) == 3
    texts = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(np.arange(4, dtype=np.int32)), pa.py_buffer(b"a\xffb")]
    )
    text = message(Table(), write_parquet(path, a=texts))
    assert text == f"{path}, column 'a': Invalid UTF8 sequence at string index 1; write the column anew"
    path = write_parquet(tmp_path / "t.parquet", a=[1, None, 2, -(2**53) - 1])
    assert "t.parquet: cannot be read" in message(Table(), write(path, path.read_bytes()[:-9]))
    packed = gzip.compress(b"a\n1\n2\n")
    assert "t.csv.gz: cannot be read" in refused(tmp_path / "t.csv.gz", packed[:-4])
    assert "t.csv.gz: cannot be read" in refused(tmp_path / "t.csv.gz", packed[:10] + b"xxxx" + packed[14:])
    packed = gzip.compress(write_parquet(path, a=[1.5, 2.5]).read_bytes())
    assert "Parquet in a compressed file; unpack it" in refused(tmp_path / "t.parquet.gz", packed)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"drop": ("ages",)}, "drop: no column 'ages' among age, b; did you mean 'age'?"),
        ({"columns": {"c": "numeric"}}, "columns: no column 'c' among age, b"),
        ({"drop": ("age",), "columns": {"age": "numeric"}}, "columns: no column 'age' among b (dropped, as asked)"),
        ({"exclude": ("b",)}, "exclude: 'b' is not of the form column=value"),
        ({"drop": ("age", "b")}, "no column is left"),
    ],
)
def test_options_that_name_no_column(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    assert reason in refused(tmp_path / "t.csv", "age,b\n1,2\n3,4\n5,6\n", **options)
