"""What ten thousand public files have that the others here do not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.datasets.files import rows, write
from training.datasets.table import Table, TableError


def test_a_column_without_a_name_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", rows(a=lambda n: n / 3, b=lambda n: n % 5).replace("a,b", ",b"))
    dataset = Table().load(path)
    assert dataset.input.features == ("b",)
    assert dataset.reasons[""] == "column 1 has no name: give it one to keep it"
    np.testing.assert_array_equal(Table().load_rows(path, dataset.input).rows, dataset.rows)


@pytest.mark.parametrize(
    ("cell", "remedies"),
    [
        (lambda n: "3+" if n % 20 == 0 else n % 3, {"columns": {"a": "categorical"}}),
        (lambda n: "l7" if n == 20 else n % 9, {"missing": ["usual", "l7"]}),
        (lambda n: "l7" if n % 20 == 0 else n + 0.5, {"missing": ["usual", "l7"]}),
        (lambda n: "unknown" if n % 20 == 0 else n % 3 + 0.5, {"missing": ["usual", "unknown"]}),
    ],
)
def test_texts_with_digits_among_few_numbers_are_rather_categories(
    cell: Any, remedies: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "t.csv", rows(a=cell, b=lambda n: n % 5))
    with pytest.raises(TableError, match="is not a number, as most of the column is") as caught:
        Table(max_categories=30).load(path)
    assert json.loads(json.dumps(caught.value.remedies)) == remedies
