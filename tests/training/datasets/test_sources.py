"""Every source agrees with its schema, and refuses what it cannot read by name."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.bundle import ImageInput
from service.errors import FileError
from tests.training.datasets.files import FILES, message, source_of
from training.datasets import DATASETS, Dataset
from training.schema import inexact


@pytest.mark.parametrize("kind", DATASETS)
def test_rows_agree_with_the_schema(kind: str, tmp_path: Path) -> None:
    source = source_of(kind)
    assert type(source) is DATASETS[kind]
    dataset = source.load(FILES[kind](tmp_path))
    assert len(dataset.rows) >= 20
    assert dataset.rows.shape[1:] == dataset.input.shape
    assert dataset.rows.dtype == dataset.input.dtype
    if isinstance(dataset.input, ImageInput):
        assert dataset.input.low <= dataset.rows.min() <= dataset.rows.max() <= dataset.input.high


@pytest.mark.parametrize("kind", DATASETS)
def test_loading_twice_gives_one_fingerprint(kind: str, tmp_path: Path) -> None:
    path = FILES[kind](tmp_path)
    first, second = (source_of(kind).load(path) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert len(bytes.fromhex(first.fingerprint)) == 32


@pytest.mark.parametrize("kind", DATASETS)
def test_absent_files_are_named(kind: str, tmp_path: Path) -> None:
    assert str(tmp_path / "absent.csv") in message(source_of(kind), tmp_path / "absent.csv")
    if kind != "digits":
        assert "needs a path" in message(source_of(kind), None)


@pytest.mark.parametrize("kind", DATASETS)
def test_unknown_options_are_refused(kind: str) -> None:
    with pytest.raises(ValidationError, match="colour"):
        source_of(kind, colour="red")


@pytest.mark.parametrize("kind", [kind for kind in DATASETS if kind not in ("digits", "image_folder")])
def test_damaged_files_raise_nothing_but_data_errors(kind: str, tmp_path: Path) -> None:
    path = FILES[kind](tmp_path)
    assert path is not None
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(150):
        damaged = bytearray(whole)
        damaged[rng.integers(min(len(whole), 140))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged if trial % 2 else damaged[: rng.integers(len(whole))])
        try:
            source_of(kind).load(path)
        except FileError as error:
            assert str(path) in str(error)  # noqa: PT017


def test_the_package_does_not_import_torch() -> None:
    code = "import sys, training.datasets; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_fingerprint_depends_on_schema_shape_and_values() -> None:
    rows = np.zeros((4, 2, 6), np.uint8)
    changed = rows.copy()
    changed[3, 1, 5] = 1
    schema = ImageInput(shape=(2, 6), dtype="uint8", low=0, high=255)
    variants = [
        Dataset(schema, rows),
        Dataset(schema, changed),
        Dataset(ImageInput(shape=(2, 6), dtype="uint8", low=0, high=16), rows),
        Dataset(ImageInput(shape=(3, 4), dtype="uint8", low=0, high=255), rows.reshape(4, 3, 4)),
        Dataset(schema, rows[:3]),
    ]
    assert len({dataset.fingerprint for dataset in variants}) == len(variants)
    assert Dataset(schema, np.asfortranarray(changed)).fingerprint == variants[1].fingerprint


@given(st.integers(-(2**63), 2**64 - 1))
def test_inexact_agrees_with_python(number: int) -> None:
    array = np.array([number], np.int64 if number < 2**63 else np.uint64)
    assert inexact(array)[0] == (int(float(number)) != number)
