"""Disjoint parts of a dataset, such that no two identical rows lie in different parts."""

import hashlib
from dataclasses import dataclass, fields
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from service.bundle import manifest
from training.datasets.source import DataError, Dataset

SORTED = 2**28
"""Bytes of all rows that are sorted at once."""

Fraction = Annotated[float, Field(gt=0, lt=1)]
Indices = npt.NDArray[np.int64]


_MORE = "bring more: training, validation, calibration and the test need rows of their own, at best some hundreds"


class SplitRecipe(BaseModel):
    """Shares of the rows for each part; the remaining rows are for training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation: Fraction = Field(default=0.1, description="Share of the rows that decide when to stop.")
    calibration: Fraction = Field(default=0.2, description="Share of the held-out rows behind the p-values.")
    test: Fraction = Field(default=0.2, description="Share of the rows for the held-out figures.")
    seed: NonNegativeInt = Field(default=0, description="Seed of the division.")

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> Self:
        if self.validation + self.calibration + self.test >= 1:
            raise ValueError("validation, calibration and test must add up to less than 1: the rest is for training")
        return self


@dataclass(frozen=True, eq=False)
class Splits:
    """Row numbers of each part, ascending. The parts are disjoint and cover all rows."""

    train: Indices
    validation: Indices
    calibration: Indices
    test: Indices

    def record(self) -> dict[str, manifest.Split]:
        """Every part's size and the SHA-256 of its row numbers as little-endian int64."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: manifest.Split(rows=len(rows), sha256=hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest())
            for name, rows in parts.items()
        }


def split(dataset: Dataset, recipe: SplitRecipe) -> Splits:
    """Divide the rows at random; the same dataset and recipe always give the same parts.

    Byte-identical rows stay together, so that a part's size may miss its share by half such a group. A source's own
    test set is the test part, whole, whether or not it repeats other rows, because published figures are made on it as
    it is; the fractions for validation and calibration are then of the other rows.

    Raises:
        DataError: There are fewer distinct rows than parts.
    """
    num_rows = len(dataset.rows) - dataset.num_test
    fractions = {"validation": recipe.validation, "calibration": recipe.calibration}
    if not dataset.num_test:
        fractions["test"] = recipe.test
    parts = divide(dataset.rows[:num_rows], np.array(list(fractions.values())), recipe.seed)
    official = {"test": np.arange(num_rows, len(dataset.rows))} if dataset.num_test else {}
    return Splits(**dict(zip((*fractions, "train"), parts, strict=True)), **official)


def divide(rows: npt.NDArray[Any], fractions: npt.NDArray[np.float64], seed: int) -> list[Indices]:
    """Row numbers for each fraction of the (N, ...) rows and, last, for the remainder."""
    num_cuts = len(fractions)
    if len(rows) <= num_cuts:
        raise DataError(f"{len(rows)} rows are too few for {num_cuts + 1} parts; {_MORE}")
    group = _groups(rows)
    sizes = np.bincount(group)
    num_groups = len(sizes)
    if num_groups <= num_cuts:
        raise DataError(f"{num_groups} distinct rows are too few for {num_cuts + 1} parts; {_MORE}")

    order = np.random.default_rng(seed).permutation(num_groups)
    middles = np.cumsum(sizes[order]) - sizes[order] / 2
    cuts = np.searchsorted(middles, np.cumsum(fractions) * len(rows))
    # Move the cuts apart so that every part has a group.
    steps = np.arange(1, num_cuts + 1)
    cuts = np.clip(np.maximum.accumulate(cuts - steps), 0, num_groups - num_cuts - 1) + steps
    rank = np.empty(num_groups, np.int64)
    rank[order] = np.arange(num_groups)
    part = np.searchsorted(cuts, rank, side="right")[group]
    return [np.flatnonzero(part == number) for number in range(num_cuts + 1)]


def _groups(rows: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The number of each row among the different ones in the order of their bytes, (N,): the same for identical rows.

    Compared as bytes, a missing cell (NaN) equals itself. Rows on the disk need not fit into memory: as many of their
    first bytes as `SORTED` allows are sorted, then the next bytes of those that are alike so far.
    """
    data = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    group, alike, start = np.zeros(len(data), np.int64), np.arange(len(data)), 0
    while start < data.shape[1] and len(alike):
        stop = start + max(1, SORTED // len(alike))
        part = np.ascontiguousarray(data[alike, start:stop])
        _, ranks = np.unique(part.view(np.dtype((np.void, part.shape[1])))[:, 0], return_inverse=True)
        group *= ranks.max() + 1
        group[alike] += ranks
        _, group = np.unique(group, return_inverse=True)
        alike, start = np.flatnonzero(np.bincount(group)[group] > 1), stop
    return group
