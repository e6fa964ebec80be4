"""P-values of rows with missing cells over HTTP, and what a bundle must say for them."""

from pathlib import Path

import httpx
import numpy as np
import pytest

from service.bundle import MISSING_CELLS, Array, describe_files, read_bundle, write_arrays, write_bundle
from service.errors import BundleError
from service.scoring import p_values
from tests.conftest import Serve
from tests.service.http_client import table
from tests.service.toy_bundles import table_files

STORED = {
    "patterns": np.array([[False, False], [False, True]]),
    "counts": np.zeros(0, np.int64),
    "often": np.zeros(2, bool),
    "negative_elbo.sizes": np.array([19, 29]),
    "negative_elbo": np.concatenate([np.linspace(0, 6, 19), np.linspace(0, 12, 29)]),
}
"""Of a table with a number and a category: what rows without missing cells, and rows without category, compare with."""


def write(folder: Path, stored: dict[str, Array]) -> Path:
    manifest, files = table_files()
    files |= {MISSING_CELLS: write_arrays(stored)}
    return write_bundle(folder, manifest.model_copy(update={"files": describe_files(files)}), files)


def test_each_row_has_the_p_value_of_its_own_pattern(serve: Serve, tmp_path: Path) -> None:
    write(tmp_path, STORED)
    rows = [[1.5, "blue"], [1.5, None], [None, "blue"], [1.5, None], [-3.0, None], [0.5, "red"]]
    with serve("--models", str(tmp_path), "--device", "cpu") as client:
        whole = table(client, "elbo", rows).json()
        alone = [table(client, "elbo", [row]).json()["p_value"][0] for row in rows]
        called = table(client, "elbo", rows, fdr=0.9).json()["discovery"]
        metrics = client.get("/metrics").text
    scores, held_out = np.array(whole["score"]), STORED["negative_elbo"]
    expected: list[float | None] = p_values(scores, held_out[19:]).tolist()
    expected[0], expected[5] = p_values(scores[[0, 5]], held_out[:19]).tolist()
    expected[2] = None
    assert whole["p_value"] == alone == expected
    assert called[4]
    assert not called[2]
    count = 'lowerbound_p_value_count{model="people",version="1"} '
    assert f"{count}{3 * len(rows) - 3}.0" in metrics


def test_without_the_file_only_complete_rows_have_a_p_value(several: httpx.Client) -> None:
    whole, lacking = table(several, "elbo", [[1.5, "red"], [None, "red"]]).json()["p_value"]
    assert whole is not None
    assert lacking is None


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"patterns": np.zeros((2, 3), bool)}, "patterns must"),
        ({"patterns": np.zeros((2, 2))}, "patterns must"),
        ({"often": np.zeros(3, bool)}, "often must"),
        ({"counts": np.array([1])}, "negative_elbo.sizes must hold 3"),
        ({"negative_elbo.sizes": np.array([49, -1])}, "negative_elbo.sizes must"),
        ({"negative_elbo.sizes": np.array([19, 28])}, "negative_elbo must hold 47"),
        (
            {"counts": np.array([1]), "negative_elbo.sizes": np.array([2**63 - 1, 2**63 - 1, 50])},
            "negative_elbo must hold 18446744073709551664",
        ),
        ({"negative_elbo": -STORED["negative_elbo"]}, "sorted"),
        ({"negative_elbo": np.full(48, np.nan)}, "numbers"),
        ({"negative_elbo": None}, "negative_elbo must"),
    ],
)
def test_damaged_scores_are_refused(tmp_path: Path, wrong: dict[str, Array | None], named: str) -> None:
    folder = write(tmp_path, {name: array for name, array in (STORED | wrong).items() if array is not None})
    with pytest.raises(BundleError, match=rf"missing_cells\.npz: .*{named}"):
        read_bundle(folder)
