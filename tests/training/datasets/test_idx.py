"""IDX files."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from service.bundle import ImageInput
from tests.training.datasets.files import (
    idx_bytes,
    images,
    message,
    write,
)
from training.datasets.idx import Idx


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_folder_with_official_test_set(end: str, tmp_path: Path) -> None:
    train, test = images(6, 4, 5), images(3, 4, 5, seed=1)
    pack = gzip.compress if end else bytes
    write(tmp_path / f"train-images-idx3-ubyte{end}", pack(idx_bytes(train)))
    assert Idx().load(tmp_path).num_test == 0
    write(tmp_path / f"t10k-images-idx3-ubyte{end}", pack(idx_bytes(test)))
    dataset = Idx().load(tmp_path)
    assert dataset.num_test == 3
    np.testing.assert_array_equal(dataset.rows, np.concatenate([train, test]))
    assert dataset.input == ImageInput(shape=(4, 5), dtype="uint8", low=0, high=255)


def test_idx_binarized(tmp_path: Path) -> None:
    train, test = images(30, 6, 5), images(8, 6, 5, seed=1)
    write(tmp_path / "train-images-idx3-ubyte", idx_bytes(train))
    write(tmp_path / "t10k-images-idx3-ubyte", idx_bytes(test))
    dataset = Idx(binarize="dynamic").load(tmp_path)
    assert dataset.input == ImageInput(shape=(6, 5), dtype="uint8", low=0, high=1)
    assert dataset.levels is not None
    np.testing.assert_array_equal(dataset.levels, np.concatenate([train, test]))
    # The protocol of the published figures, in its authors' words.
    np.random.seed(777)  # noqa: NPY002
    np.testing.assert_array_equal(dataset.rows[30:], np.random.binomial(1, test / 255.0))  # noqa: NPY002
    assert dataset.num_test == 8
    assert Idx().load(tmp_path).levels is None


def test_idx_in_colour(tmp_path: Path) -> None:
    dataset = Idx().load(write(tmp_path / "x", idx_bytes(images(2, 4, 5, 3))))
    assert dataset.input.shape == (4, 5, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "begins with nothing"),
        (b"\x89PNG", "begins with 89 50 4e 47"),
        (idx_bytes(images(2, 4, 5), kind=0x0D), "type 0x0d"),
        (idx_bytes(images(2, 4, 5))[:9], "truncated within its header: 9 bytes of 16"),
        (idx_bytes(images(2, 4, 5))[:-1], "truncated: 39 of the 40 values of shape (2, 4, 5)"),
        (idx_bytes(images(2, 4, 5)) + b"!!", "2 trailing bytes"),
        (idx_bytes(images(7)), "shape (7,)"),
        (idx_bytes(images(0, 4, 5)), "shape (0, 4, 5)"),
        (idx_bytes(images(2, 4, 5, 2)), "2 channels"),
        (gzip.compress(idx_bytes(images(2, 4, 5)), mtime=0)[:-9], "cannot be read: Compressed file ended"),
    ],
)
def test_bad_idx(content: bytes, reason: str, tmp_path: Path) -> None:
    text = message(Idx(), write(tmp_path / "bad.idx", content))
    assert "bad.idx" in text
    assert reason in text


def test_bad_idx_folders(tmp_path: Path) -> None:
    assert "train-images-idx3-ubyte" in message(Idx(), tmp_path)
    write(tmp_path / "train-images-idx3-ubyte", idx_bytes(images(2, 4, 5)))
    write(tmp_path / "t10k-images-idx3-ubyte", idx_bytes(images(2, 5, 5)))
    text = message(Idx(), tmp_path)
    assert "t10k-images-idx3-ubyte" in text
    assert "(5, 5)" in text


def test_files_without_end_are_refused(tmp_path: Path) -> None:
    assert "/dev/zero: a pipe or a device" in message(Idx(), Path("/dev/zero"))
    (tmp_path / "train-images-idx3-ubyte").symlink_to("/dev/zero")
    assert "train-images-idx3-ubyte: a pipe or a device" in message(Idx(), tmp_path)
