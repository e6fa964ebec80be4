"""IDX files, the format of MNIST and its family (http://yann.lecun.com/exdb/mnist), plain or gzipped."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from service.errors import FileError
from service.readers.arrays import read_idx
from service.readers.files import reading
from training.datasets.source import Dataset, Source, image_dataset, require_path

SEED = 777


class Idx(Source):
    """Images in whole levels from 0 to 255.

    The path is one IDX file of three dimensions (rows, height, width) or four (and channels), or a folder that holds
    `train-images-idx3-ubyte` and, where there is an official test set, `t10k-images-idx3-ubyte`, either with or without
    `.gz` (`idx4` for four dimensions).
    """

    kind: Literal["idx"] = "idx"
    binarize: Literal["no", "dynamic"] = Field(
        default="no",
        description="dynamic: black and white, drawn with the grey levels as probabilities; training rows afresh at "
        "each epoch, the others once.",
    )

    def load(self, path: Path | None) -> Dataset:
        path = require_path(path)
        dataset = _load(path)
        return dataset if self.binarize == "no" else _binarized(path, dataset)


def _load(path: Path) -> Dataset:
    if not path.is_dir():
        return image_dataset(path, _read(path))
    train, test = _find(path, "train"), _find(path, "t10k")
    if train is None:
        raise FileError(f"{path}: holds no train-images-idx3-ubyte or train-images-idx3-ubyte.gz")
    rows = _read(train)
    if test is None:
        return image_dataset(train, rows)
    official = _read(test)
    if official.shape[1:] != rows.shape[1:]:
        raise FileError(f"{test}: images of shape {official.shape[1:]}; {train.name} has {rows.shape[1:]}")
    return image_dataset(path, np.concatenate([rows, official]), num_test=len(official))


def _binarized(path: Path, dataset: Dataset) -> Dataset:
    """One draw from the grey levels, reproducible as in the VampPrior papers: NumPy's legacy generator, seed 777."""
    cut = len(dataset.rows) - dataset.num_test
    # Each part has its own seed, so that the test set does not depend on the training set.
    parts = [np.random.RandomState(SEED).binomial(1, rows / 255) for rows in np.split(dataset.rows, [cut])]
    binary = image_dataset(path, np.concatenate(parts).astype(np.uint8), 1, dataset.num_test)
    return replace(binary, levels=dataset.rows)


def _find(folder: Path, part: str) -> Path | None:
    # The plain file sorts before its gzipped copy. Some mirrors write a dot for the second hyphen.
    matches = (match for end in ("", ".gz") for match in folder.glob(f"{part}-images?idx[34]-ubyte{end}"))
    return min(matches, default=None)


def _read(path: Path) -> npt.NDArray[Any]:
    with reading(str(path)):
        return read_idx(require_path(path).read_bytes())
