"""`.npy` and `.npz` files."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from service.bundle import ImageInput, NumericColumn
from tests.training.datasets.files import columns, images, message, write
from training.datasets.numpy_arrays import NumpyArrays


def save(path: Path, array: Any) -> Path:
    np.save(path, array, allow_pickle=True)
    return path


def test_numpy_table(tmp_path: Path) -> None:
    array = np.array([[1, -np.nan], [3, 4]], np.float32)
    dataset = NumpyArrays().load(save(tmp_path / "x.npy", array))
    assert list(columns(dataset).values()) == [NumericColumn(name="x0"), NumericColumn(name="x1")]
    assert dataset.rows.tobytes() == np.array([[1, np.nan], [3, 4]]).tobytes()


@pytest.mark.parametrize(
    ("array", "dtype", "high"),
    [
        (images(3, 4, 5), "uint8", 255),
        (images(3, 4, 5, 3).astype(np.int64), "uint8", 255),
        (images(3, 4, 5, 1) > 99, "uint8", 1),
        (images(3, 4, 5) / 255, "float32", 1),
        (np.asfortranarray(images(3, 4, 5) / np.float16(256)), "float32", 1),
    ],
)
def test_numpy_images(array: npt.NDArray[Any], dtype: str, high: float, tmp_path: Path) -> None:
    dataset = NumpyArrays().load(save(tmp_path / "x.npy", array))
    assert dataset.input == ImageInput.model_validate(
        {"shape": array.shape[1:], "dtype": dtype, "low": 0, "high": high}
    )
    np.testing.assert_array_equal(dataset.rows, array.astype(dtype))


@pytest.mark.parametrize("names", [("X", "y"), ("x", "y"), ("anything",)])
def test_npz_chooses_its_array(names: tuple[str, ...], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{name: np.full((2, 2), i) for i, name in enumerate(names)})  # type: ignore[arg-type]
    assert NumpyArrays().load(tmp_path / "a.npz").rows.max() == 0


def test_bad_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", left=np.zeros((2, 2)), right=np.zeros((2, 2)))
    assert "left, right" in message(NumpyArrays(), tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", X=np.array([[{}]]))
    assert "b.npz" in message(NumpyArrays(), tmp_path / "b.npz")
    assert "c.npz: cannot be read" in message(
        NumpyArrays(), write(tmp_path / "c.npz", (tmp_path / "a.npz").read_bytes()[:99])
    )


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        ([[1.0, 2.0], [np.inf, 3.0]], "[1, 0] = inf is infinite"),
        ([[1, 2], [3, 2**53 + 1]], "[1, 1] = 9007199254740993"),
        ([[np.nan, 1], [np.nan, 2]], "column 0"),
        (np.full((1, 2, 2), 300), "[0, 0, 0] = 300 is not a level"),
        (np.array([[[0.5, np.nan]]]), "[0, 0, 1] = nan is not in [0, 1]"),
        (np.array([[[0.5, -0.1]]]), "[0, 0, 1] = -0.1 is not in [0, 1]"),
        (np.zeros((2, 3, 32, 32)), "32 channels; channels come last and are 1 or 3; move them, by x.transpose(0, 2, 3"),
        (np.full((1, 2, 2), 300), "; scale them to levels, or to floats in [0, 1]"),
        (np.array([[[0.5, -0.1]]]), "; scale them, as by (x - x.min()) / (x.max() - x.min()), or save uint8"),
        (np.full(5, -1.0), "shape (5,) is neither a table (rows, columns) nor images"),
        (np.zeros((0, 5)), "shape (0, 5) holds nothing"),
        (np.zeros((2, 2), complex), "complex128"),
        (np.array([["a"]]), "<U1"),
        (np.array([[None]]), "cannot be read: Object arrays"),
        (np.array([["a"]]), "; save its numbers, as by array.astype(float), or all columns as Parquet for the recipe"),
        (np.array([[None]]), "; save its numbers, as by array.astype(float)"),
        (np.full(5, -1.0), "; reshape it"),
    ],
)
def test_bad_arrays(array: Any, reason: str, tmp_path: Path) -> None:
    text = message(NumpyArrays(), save(tmp_path / "bad.npy", array))
    assert "bad.npy" in text
    assert reason in text


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"not an array"])
def test_bad_npy(content: bytes, tmp_path: Path) -> None:
    assert "bad.npy: cannot be read" in message(NumpyArrays(), write(tmp_path / "bad.npy", content))


def test_npy_ends_where_it_says(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", np.zeros((9, 9)))
    whole = path.read_bytes()
    assert "x.npy: cannot be read" in message(NumpyArrays(), write(path, whole[:-1]))
    assert "trailing bytes" in message(NumpyArrays(), write(path, whole + b"!"))
    assert "x.txt: neither .npy nor .npz" in message(NumpyArrays(), write(tmp_path / "x.txt", whole))
    assert message(NumpyArrays(), tmp_path).startswith(f"{tmp_path}: is a folder; give one file, as by np.save(")
