"""Tables of hard shapes become rows and a schema, or a refusal that names the column."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bulk.readers import open_inputs, read_from
from service.errors import FileError
from tests.training.datasets.generated_tables import NUM_TABLES, generate, write
from training.datasets import Dataset
from training.datasets.table import Table, TableError


def load(path: Path, options: dict[str, Any]) -> tuple[Dataset | None, FileError | None]:
    try:
        return Table.model_validate(options).load(path), None
    except FileError as error:
        return None, error


FEW = 6
SEEDS = [pytest.param(seed, marks=pytest.mark.slow if seed >= FEW else ()) for seed in range(NUM_TABLES)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_schema_or_a_refusal_that_names_the_column(seed: int, tmp_path: Path) -> None:
    path = write(generate(seed), tmp_path / "rows.csv")
    dataset, error = load(path, {})
    if isinstance(error, TableError):
        assert all(re.search(r"column '\w+_\d+': ", problem) for problem in error.problems)
        dataset, error = load(path, error.remedies)
    if dataset is None:
        assert re.search(r"no column is left \('\w+_\d+'", str(error))
        return
    assert np.isfinite(dataset.rows[~np.isnan(dataset.rows)]).all()
    spread = np.nanmax(dataset.rows, 0) - np.nanmin(dataset.rows, 0)
    assert (spread > 0).all(), "no column is constant"
    read = np.concatenate([batch.x for batch in read_from(open_inputs([str(path)], dataset.input), 0, 1000)])
    np.testing.assert_array_equal(read, dataset.rows)
