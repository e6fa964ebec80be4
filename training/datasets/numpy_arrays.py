"""NumPy files: a table of numbers, or images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from service.bundle import NumericColumn, TabularInput
from service.errors import FileError
from service.readers.arrays import read_npz
from service.readers.files import reading
from training.datasets import source
from training.datasets.exclusions import Excluding
from training.datasets.source import Dataset, allocate, as_labels, chunks, image_dataset, require_path
from training.schema import inexact

SHAPES = "(rows, height, width) or (rows, height, width, channels)"
TRAILING = "trailing bytes after the array"
_SAVE = "save its numbers, as by array.astype(float), or all columns as Parquet for the recipe table"


class NumpyArrays(Excluding):
    """A `.npy` file, or the array named `X` or `x`, or else the only one, of an `.npz` file.

    Two dimensions are a table of numeric columns `x0`, `x1`, …, NaN where a cell is missing. Three or four are images
    (rows, height, width) or (rows, height, width, channels): whole numbers are levels from 0 to 255, booleans levels
    from 0 to 1, and floating-point numbers lie in [0, 1] and become float32.

    A large `.npy` file stays where it is, if it has float64 cells, or uint8 or float32 pixels, in C order.
    """

    kind: Literal["numpy"] = "numpy"

    def load(self, path: Path | None) -> Dataset:
        path = require_path(path)
        return self.without_anomalies(array_dataset(path, _read(path)), path)

    def load_labels(self, path: Path | None, name: str) -> npt.NDArray[np.bool_]:
        """Labels are an array of their own in the `.npz` file."""
        path = require_path(path)
        labels = as_labels(path, name, _read(path, name), len(_read(path)))
        return labels if (kept := self.load(path).numbers) is None else labels[kept]


def array_dataset(place: Path | str, array: npt.NDArray[Any]) -> Dataset:
    """The rows of an array, as `NumpyArrays` describes them; `place` is what errors name.

    Raises:
        FileError: The array is neither a table nor images.
    """
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise FileError(f"{place}: dtype {array.dtype} is not of real numbers of at most 64 bits; {_SAVE}")
    if not array.ndim or not array.size:
        raise FileError(f"{place}: shape {array.shape} holds nothing")
    if not 2 <= array.ndim <= 4:
        raise FileError(
            f"{place}: shape {array.shape} is neither a table (rows, columns) nor images {SHAPES}; reshape it"
        )
    if array.dtype.kind == "f":
        _refuse(place, array, np.isinf, "is infinite; write NaN where a cell is missing")
    return _table(place, array) if array.ndim == 2 else _images(place, array)


def _read(path: Path, array_name: str | None = None) -> npt.NDArray[Any]:
    """The one array of a file, or the one of an `.npz` file that is asked for."""
    with reading(str(path)):
        match path.suffix.lower():
            case ".npy" if array_name:
                raise FileError(f"{path}: a .npy file holds one array; keep rows and {array_name!r} in an .npz file")
            case ".npy":
                if path.stat().st_size > source.IN_MEMORY:
                    return _mapped(path)
                with path.open("rb") as file:
                    try:
                        array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
                    except OSError:
                        raise
                    except Exception as error:  # Python's parser reads the header, and raises a dozen kinds.
                        raise FileError(f"{path}: cannot be read: {_in_words(str(error))}") from error
                    if file.read(1):
                        raise FileError(f"{path}: {TRAILING}")
                return array
            case ".npz":
                with path.open("rb") as file:
                    return read_npz(file, array_name)
    if path.is_dir():
        raise FileError(f"{path}: is a folder; give one file, as by np.save('rows.npy', np.stack(arrays))")
    raise FileError(
        f"{path}: neither .npy nor .npz; the recipe table reads CSV and Parquet, images reads pictures; save other "
        "arrays by np.save"
    )


def _in_words(problem: str) -> str:
    return f"Object arrays are Python's own; {_SAVE}" if problem.startswith("Object arrays") else problem


def _mapped(path: Path) -> npt.NDArray[Any]:
    array = np.lib.format.open_memmap(path, mode="r")
    if array.offset + array.nbytes < path.stat().st_size:
        raise FileError(f"{path}: {TRAILING}")
    return array


def _table(place: Path | str, array: npt.NDArray[Any]) -> Dataset:
    if array.dtype.kind in "iu":
        _refuse(place, array, inexact, "is a whole number that float64 cannot hold exactly")
    rows = _rows(array, np.float64)
    observed = np.any([~np.isnan(rows[part]).all(axis=0) for part in chunks(rows)], axis=0)
    if (empty := np.flatnonzero(~observed)).size:
        raise FileError(f"{place}: column {empty[0]} has no value in any row; leave it out")
    return Dataset(TabularInput(columns=tuple(NumericColumn(name=f"x{i}") for i in range(rows.shape[1]))), rows)


def _images(place: Path | str, array: npt.NDArray[Any]) -> Dataset:
    match array.dtype.kind:
        case "b":
            return image_dataset(place, _rows(array, np.uint8), high=1)
        case "f":
            # Negated, so that NaN is outside too.
            outside = (
                "is not in [0, 1], where floating-point pixels lie; scale them, "
                "as by (x - x.min()) / (x.max() - x.min()), or save uint8"
            )
            _refuse(place, array, lambda pixels: ~((pixels >= 0) & (pixels <= 1)), outside)
            return image_dataset(place, _rows(array, np.float32), high=1)
        case _:
            _refuse(
                place,
                array,
                lambda pixels: (pixels < 0) | (pixels > 255),
                "is not a level from 0 to 255; scale them to levels, or to floats in [0, 1]",
            )
            return image_dataset(place, _rows(array, np.uint8))


def _rows(array: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The array of that dtype, in C order, every NaN with the same bits: itself, where it is all that."""
    parts = list(chunks(array))
    if array.dtype == dtype and array.flags.c_contiguous and not any(_has_other_nans(array[part]) for part in parts):
        return array
    rows = allocate(array.shape, dtype)
    for part in parts:
        rows[part] = np.where(np.isnan(array[part]), np.nan, array[part]) if array.dtype.kind == "f" else array[part]
    return rows


def _has_other_nans(values: npt.NDArray[Any]) -> bool:
    """Whether NaNs differ: processors give them either sign, and rows that differ in nothing else are the same row."""
    if values.dtype != np.float64:
        return False  # Pixels are no NaNs, and other numbers are converted.
    return bool((values[np.isnan(values)].view(np.uint64) != np.float64(np.nan).view(np.uint64)).any())


def _refuse(
    place: Path | str, array: npt.NDArray[Any], wrong: Callable[[npt.NDArray[Any]], npt.NDArray[np.bool_]], reason: str
) -> None:
    """Raise a FileError that names the first place, if any, that is wrong."""
    for part in chunks(array):
        if (where := wrong(array[part])).any():
            row, *inside = np.unravel_index(np.argmax(where), where.shape)
            index = (part.start + row, *inside)
            raise FileError(f"{place}: [{', '.join(map(str, index))}] = {array[index]} {reason}")
