"""A table's schema is written, corrected and given back."""

from pathlib import Path

import pytest
import yaml

from service.bundle import TabularInput
from service.errors import FileError
from training.datasets.schema_file import write_schema
from training.datasets.table import Table

ROWS = "city;price;when;code;note\n" + "".join(
    f"{('Bonn', 'Kiel', '')[i % 3]};{1000 + 7 * i},{i % 10}5;{1 + i % 28:02}.03.2026;{i % 4};n{i}\n" for i in range(90)
)


def written(folder: Path) -> tuple[Path, Path, TabularInput]:
    """A table, its schema file in a folder that is new, and its schema."""
    data, path = folder / "rows.csv", folder / "new" / "schema.yaml"
    data.write_text(ROWS)
    dataset = Table(kind="table").load(data)
    assert isinstance(dataset.input, TabularInput)
    write_schema(path, dataset.input, dataset.reasons)
    return data, path, dataset.input


def test_a_schema_that_is_given_back_reads_the_same(tmp_path: Path) -> None:
    data, path, schema = written(tmp_path)
    assert [column.name for column in schema.columns] == ["city", "price", "when", "code"]
    assert "#   note: " in path.read_text()
    assert Table(kind="table", schema=path).load(data).input == schema


def test_a_corrected_type_is_found_about_again(tmp_path: Path) -> None:
    data, path, _ = written(tmp_path)
    document = yaml.safe_load(path.read_text())
    document["columns"] = [{"name": "code", "type": "categorical"}, document["columns"][1]]
    path.write_text(yaml.safe_dump(document))
    corrected = Table(kind="table", schema=path).load(data).input
    assert isinstance(corrected, TabularInput)
    assert {column.name: column.type for column in corrected.columns} == {"price": "numeric", "code": "categorical"}
    assert set(corrected.dropped) == {"city", "when", "note"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("columns: [", "cannot be read"),
        ("columns: 2020-02-30", "cannot be read: day is out of range"),
        ("#" * 2**23, "cannot be read: at most 4,194,304 bytes are read"),
        ("- city", "must have a list of columns"),
        ("columns: [{type: numeric}]", "column 1 has no name"),
        ("columns: [{name: 2020, type: numeric}]", "write it in quotes"),
        ("columns: [{name: code, type: numeric}, {name: code, type: numeric}]", "'code' is listed twice"),
        ("columns: [{name: code, type: number}]", "column 'code'"),
        ("columns: [{name: code, type: numeric, decimal: x}]", "column 'code': numeric.decimal"),
        ("columns: [{name: cod, type: numeric}]", "did you mean 'code'"),
    ],
)
def test_a_wrong_schema_names_the_column(tmp_path: Path, text: str, named: str) -> None:
    data, path, _ = written(tmp_path)
    path.write_text(text)
    with pytest.raises(FileError) as caught:
        Table(kind="table", schema=path).load(data)
    assert named in str(caught.value)
