"""Small examples of every kind of data, for tests that go through a registry."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.bundle import CategoricalColumn, ImageInput, NumericColumn, TabularInput
from training.model import LIKELIHOODS
from training.model.likelihoods import Likelihood, LikelihoodError

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Kind:
    """A schema and rows that fit it, (N, *data.shape), raw."""

    data: ImageInput | TabularInput
    rows: Array


def _table(*columns: NumericColumn | CategoricalColumn) -> Kind:
    rng = np.random.default_rng(5)
    parts = []
    for i, column in enumerate(columns):
        if isinstance(column, CategoricalColumn):
            cells = rng.integers(0, len(column.categories), 80).astype(np.float64)
        else:
            cells = 100.0 * i + 10.0 ** (i - 1) * rng.standard_normal(80)
        cells[rng.random(80) < 0.15] = np.nan
        parts.append(cells)
    return Kind(TabularInput(columns=columns), np.column_stack(parts))


def _image(shape: tuple[int, int] | tuple[int, int, int], dtype: Any, low: float, high: float) -> Kind:
    rng = np.random.default_rng(6)
    rows = (
        rng.uniform(low, high, (80, *shape))
        if dtype == "float32"
        else rng.integers(int(low), int(high) + 1, (80, *shape))
    )
    return Kind(ImageInput(shape=shape, dtype=dtype, low=low, high=high), rows.astype(dtype))


A, B = NumericColumn(name="a"), NumericColumn(name="b")
C = CategoricalColumn(name="c", categories=("x", "y", "z"))
D = CategoricalColumn(name="d", categories=(False, True))

KINDS: dict[str, Kind] = {
    "binary image": _image((4, 3), "uint8", 0, 1),
    "grey levels": _image((3, 4, 1), "uint8", 2, 18),
    "colour levels": _image((7, 5, 3), "uint8", 0, 255),
    "continuous image": _image((3, 2), "float32", -1, 3),
    "numbers": _table(A, B, NumericColumn(name="e")),
    "categories": _table(C, D),
    "mixed table": _table(C, A, D, B),
}


def accepted() -> list[tuple[str, str]]:
    """Every registered likelihood with every kind of data that it takes."""
    pairs = []
    for name, likelihood in LIKELIHOODS.items():
        for kind, example in KINDS.items():
            try:
                likelihood(example.data, example.rows)
            except LikelihoodError:
                continue
            pairs.append((name, kind))
    return pairs


def make(name: str, kind: str) -> tuple[Likelihood, Kind]:
    """A likelihood of a kind of data."""
    return LIKELIHOODS[name](KINDS[kind].data, KINDS[kind].rows), KINDS[kind]
