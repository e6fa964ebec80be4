"""scikit-learn's handwritten digits: small, real, and installed with the trainer."""

from pathlib import Path
from typing import Literal

import numpy as np

from service.bundle import ImageInput
from service.errors import FileError
from training.datasets.source import Dataset, Source


class Digits(Source):
    """1797 grey images of 8 × 8 pixels, in whole levels from 0 to 16."""

    kind: Literal["digits"] = "digits"

    def load(self, path: Path | None) -> Dataset:
        if path is not None:
            raise FileError(f"{path}: the digits come with scikit-learn and are read from no path")
        from sklearn.datasets import load_digits  # noqa: PLC0415 - takes seconds

        rows = load_digits().images.astype(np.uint8)
        return Dataset(ImageInput(shape=(8, 8), dtype="uint8", low=0, high=16), rows)
