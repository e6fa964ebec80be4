"""Rows of one file in another's schema."""

from pathlib import Path

import numpy as np
import pytest

from service.bundle import CategoricalColumn, NumericColumn, TabularInput
from tests.training.datasets.files import write, write_idx
from training.datasets import DataError, aligned
from training.datasets.idx import Idx
from training.datasets.table import Table


def test_new_rows_take_the_model_s_categories(tmp_path: Path) -> None:
    schema = TabularInput(
        columns=(
            CategoricalColumn(name="kind", categories=("a", "b", "c")),
            NumericColumn(name="size"),
            CategoricalColumn(name="level", categories=(1, 2)),
        )
    )
    new = Table().load(write(tmp_path / "new.csv", "level,size,extra,kind\n2,7,0.1,c\n,9,0.2,b\n1,7,0.3,\n"))
    assert new.input.columns[1].type == "categorical"
    np.testing.assert_array_equal(aligned(new, schema, Path("new.csv")), [[2, 7, 1], [1, 9, np.nan], [np.nan, 7, 0]])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kind\na\nb\n", "no column 'size'"),
        ("kind,size\na,1\nz,2\nb,3\n", "column 'kind': 'z' is no category that the model knows"),
        ("kind,size\na,x\nb,y\n", "column 'size': 'x' is not a number"),
    ],
)
def test_new_rows_of_another_schema_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    schema = TabularInput(
        columns=(CategoricalColumn(name="kind", categories=("a", "b")), NumericColumn(name="size")),
    )
    with pytest.raises(DataError, match=reason):
        aligned(Table().load(write(tmp_path / "new.csv", text)), schema, Path("new.csv"))


def test_images_are_no_table(tmp_path: Path) -> None:
    pictures = Idx().load(write_idx(tmp_path))
    assert aligned(pictures, pictures.input, tmp_path) is pictures.rows
    with pytest.raises(DataError, match="a table of 1 columns, where the model takes uint8 images of shape"):
        aligned(Table().load(write(tmp_path / "x.csv", "a\n1\n2\n3\n")), pictures.input, Path("x.csv"))
