"""Rows that would not fit into memory stay on the disk, and are the same rows."""

import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.errors import FileError
from tests.training.datasets.files import images, message, source_of, write_folder, write_parquet, write_table
from training.datasets import SplitRecipe, source, split, splits
from training.datasets.numpy_arrays import NumpyArrays


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """None for rows, and stretches of a few of them."""
    monkeypatch.setattr(source, "IN_MEMORY", 0)
    monkeypatch.setattr(source, "CHUNK", 100)


def array(rows: Any, name: str = "x.npy") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.save(folder / name, rows)
        return folder / name

    return write


def parquet(folder: Path) -> Path:
    columns = {"age": [*range(20), None], "sex": ["m", "f", None] * 7, "a.b": np.arange(21) / 4, "gone": ["x"] * 21}
    return write_parquet(folder / "x.parquet", **columns)


NUMBERS = np.random.default_rng(0).normal(size=(50, 7))
HOLES = np.where(NUMBERS > 1, np.nan, NUMBERS)
KINDS: dict[str, tuple[str, Callable[[Path], Path], dict[str, Any]]] = {
    "numbers": ("numpy", array(HOLES), {}),
    "numbers whose NaNs have either sign": ("numpy", array(np.copysign(HOLES, -1)), {}),
    "numbers of half the size": ("numpy", array(HOLES.astype(np.float32)), {}),
    "whole numbers": ("numpy", array(images(50, 7).astype(np.int16)), {}),
    "numbers in the order of columns": ("numpy", array(np.asfortranarray(HOLES)), {}),
    "levels": ("numpy", array(images(50, 3, 4)), {}),
    "grey": ("numpy", array((images(50, 3, 4) / 255).astype(np.float32)), {}),
    "black and white": ("numpy", array(images(50, 3, 4) > 99), {}),
    "pictures": ("image_folder", write_folder, {}),
    "text": ("table", write_table, {}),
    "parquet": ("table", parquet, {"drop": ["gone"]}),
}


@pytest.mark.parametrize("name", KINDS)
def test_rows_on_the_disk_are_those_in_memory(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kind, write, options = KINDS[name]
    reader, path = source_of(kind, **options), write(tmp_path)
    expected = reader.load(path)
    assert not isinstance(expected.rows, np.memmap)
    request.getfixturevalue("no_memory")
    found = reader.load(path)
    assert isinstance(found.rows, np.memmap)
    assert found.input == expected.input
    assert found.rows.dtype == expected.rows.dtype
    assert found.rows.tobytes() == expected.rows.tobytes()
    assert found.fingerprint == expected.fingerprint
    assert split(found, SplitRecipe()).record() == split(expected, SplitRecipe()).record()


@pytest.mark.usefixtures("no_memory")
@pytest.mark.parametrize("rows", [HOLES, images(50, 3, 4), (images(50, 3, 4) / 255).astype(np.float32)])
def test_a_file_that_has_them_as_they_are_wanted_is_not_copied(rows: Any, tmp_path: Path) -> None:
    path = array(rows)(tmp_path)
    found = NumpyArrays().load(path).rows
    assert isinstance(found, np.memmap)
    assert found.filename == path
    assert not found.flags.writeable


@pytest.mark.usefixtures("no_memory")
@pytest.mark.parametrize(
    ("position", "value", "said"),
    [((40, 2), np.inf, "[40, 2] = inf is infinite"), ((40, slice(None)), -np.inf, "[40, 0] = -inf is infinite")],
)
def test_what_is_wrong_is_named(position: Any, value: float, said: str, tmp_path: Path) -> None:
    rows = NUMBERS.copy()
    rows[position] = value
    assert said in message(NumpyArrays(), array(rows)(tmp_path))


@pytest.mark.usefixtures("no_memory")
def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = array(NUMBERS)(tmp_path)
    whole = path.read_bytes()
    for content, said in (
        (whole[:-1], "cannot be read"),
        (whole[:50], "cannot be read"),
        (whole + b"!", "trailing bytes"),
    ):
        path.write_bytes(content)
        assert f"x.npy: {said}" in message(NumpyArrays(), path)
    np.save(path, np.array([[None]]), allow_pickle=True)
    assert "x.npy: cannot be read" in message(NumpyArrays(), path)


@pytest.mark.usefixtures("no_memory")
def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def held() -> int:
        """Files of the folder that are open still, though they have no name there."""
        return sum(path.resolve().is_relative_to(temporary) for path in Path("/proc/self/fd").iterdir())

    found = source_of("table").load(parquet(tmp_path))
    assert held() == 1
    assert list(temporary.iterdir()) == []
    del found
    assert held() == 0


@pytest.mark.usefixtures("no_memory")
def test_a_full_disk_is_named() -> None:
    _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
    try:
        with pytest.raises(FileError, match=rf"^{tempfile.gettempdir()}: no room for 8,000 bytes of rows: "):
            source.allocate((1000,), np.float64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@given(
    rows=hnp.arrays(np.uint8, st.tuples(st.integers(4, 40), st.integers(1, 9)), elements=st.sampled_from([0, 1, 255])),
    sorted_at_once=st.integers(1, 400),
)
def test_sorting_a_few_bytes_at_a_time_gives_the_same_groups(rows: Any, sorted_at_once: int) -> None:
    _, expected = np.unique(rows, axis=0, return_inverse=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "SORTED", sorted_at_once)
        np.testing.assert_array_equal(splits._groups(rows), expected.reshape(-1))
