"""Small files of every kind, and what is said of damaged ones."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from PIL import Image
from pydantic import TypeAdapter

from service.bundle import CategoricalColumn, NumericColumn, TabularInput
from service.errors import FileError
from training.datasets import AnySource, Dataset, Source
from training.datasets.table import Table

PARTS = ("train", "validation", "calibration", "test")


def idx_bytes(array: npt.NDArray[Any], kind: int = 0x08) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def images(*shape: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def write_idx(folder: Path) -> Path:
    return write(folder / "images.idx", idx_bytes(images(20, 3, 4)))


def write_numpy(folder: Path) -> Path:
    np.save(folder / "rows.npy", images(20, 3))
    return folder / "rows.npy"


def write_folder(folder: Path) -> Path:
    for number, image in enumerate(images(20, 3, 4)):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return folder


def write_table(folder: Path) -> Path:
    return write(folder / "t.csv", "age,sex\n" + "".join(f"{n},{'mf'[n % 2]}\n" for n in range(20)))


FILES: dict[str, Callable[[Path], Path | None]] = {
    "digits": lambda _: None,
    "idx": write_idx,
    "numpy": write_numpy,
    "image_folder": write_folder,
    "table": write_table,
}


def source_of(kind: str, **options: Any) -> Source:
    """Make a source as a recipe states it."""
    return TypeAdapter[Source](AnySource).validate_python({"kind": kind, **options})


def message(source: Source, path: Path | None) -> str:
    with pytest.raises(FileError) as caught:
        source.load(path)
    return str(caught.value)


def refused(path: Path, content: str | bytes, **options: Any) -> str:
    return message(Table(**options), write(path, content))


def rows(**cells: Any) -> str:
    """A CSV file of forty rows, of which every column is given as a function of the row's number."""
    lines = [",".join(str(cell(n)) for cell in cells.values()) for n in range(40)]
    return "\n".join([",".join(cells), *lines])


def columns(dataset: Dataset) -> dict[str, NumericColumn | CategoricalColumn]:
    assert isinstance(dataset.input, TabularInput)
    return {column.name: column for column in dataset.input.columns}


def categories(dataset: Dataset, name: str) -> tuple[Any, ...]:
    column = columns(dataset)[name]
    assert isinstance(column, CategoricalColumn)
    return column.categories
