"""Disjoint parts of a dataset: held-out rows are drawn as new rows will be, and no validation row is a training row."""

import hashlib
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from service.bundle import manifest
from service.errors import FileError
from training.datasets.source import Dataset

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
    repeats: float = field(default=0.0, kw_only=True)
    """Share of the calibration rows that are identical to a training or validation row."""

    def record(self) -> dict[str, manifest.Split]:
        """Every part's size and the SHA-256 of its row numbers as little-endian int64."""
        parts = {name: getattr(self, name) for name in ("train", "validation", "calibration", "test")}
        return {
            name: manifest.Split(rows=len(rows), sha256=hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest())
            for name, rows in parts.items()
        }


def split(dataset: Dataset, recipe: SplitRecipe) -> Splits:
    """Divide the rows at random; the same dataset and recipe always give the same parts.

    Calibration and test are a simple random sample of the rows, without a look at which rows are identical. That is
    what p-values need. Let n + 1 rows be exchangeable, the last one new, and the model any function of the rows that
    are in neither part: given these, calibration rows and the new row are exchangeable, and so are their scores (Vovk
    et al. 2005, section 4.1; Lei et al. 2018, theorem 2.2). Rows that repeat training rows score lower, and are then as
    frequent among the calibration rows as among new ones. Were they kept out of the calibration, a share r of repeats
    among new rows would lower the rate of false alarms from α to as little as (1 − r) α.

    Validation rows say how well a model does on rows that it has not seen. Identical rows are therefore kept together
    there: all of them train, or all of them validate. The part's size may miss its share by half such a group.

    A source's own test set is the test part, whole, because published figures are made on it as it is; the fractions
    for validation and calibration are then of the other rows.

    Raises:
        FileError: There are fewer distinct rows than parts, or all rows that are left for the training are identical.
    """
    num_rows = len(dataset.rows) - dataset.num_test
    fractions = [recipe.validation, recipe.calibration, *([] if dataset.num_test else [recipe.test])]
    group = _enough_groups(dataset.rows[:num_rows], len(fractions) + 1)
    # Rows are numbered by their bytes, so that the order of the file does not matter.
    order = np.argsort(group, kind="stable")[np.random.default_rng(recipe.seed).permutation(num_rows)]
    first, calibration, *test, last = np.split(order, _cuts(np.ones(num_rows), np.cumsum(fractions) * num_rows))

    # The groups of the remaining rows follow the random order, each where its first row in the file stands.
    rank = np.empty(num_rows, np.int64)
    rank[order] = np.arange(num_rows)
    rest = np.sort(np.concatenate([first, last]))
    _, representative, group_of_rest = np.unique(group[rest], return_index=True, return_inverse=True)
    if len(representative) < 2:
        raise FileError(f"the {len(rest)} rows for training and validation are identical; {_MORE}")
    validation, train = _in_order(group_of_rest, np.argsort(rank[rest[representative]]), np.array([len(first)]))
    official = np.arange(num_rows, len(dataset.rows))
    return Splits(
        rest[train],
        rest[validation],
        np.sort(calibration),
        np.sort(test[0]) if test else official,
        repeats=float(np.isin(group[calibration], group[rest]).mean()),
    )


def divide(rows: npt.NDArray[Any], fractions: npt.NDArray[np.float64], seed: int) -> list[Indices]:
    """Row numbers for each fraction of the (N, ...) rows and, last, for the remainder; identical rows stay together.

    Raises:
        FileError: There are fewer distinct rows than parts.
    """
    group = _enough_groups(rows, len(fractions) + 1)
    order = np.random.default_rng(seed).permutation(group.max() + 1)
    return _in_order(group, order, np.cumsum(fractions) * len(rows))


def _enough_groups(rows: npt.NDArray[Any], parts: int) -> npt.NDArray[np.int64]:
    """As `_groups`, of at least as many distinct rows as parts."""
    if len(rows) < parts:
        raise FileError(f"{len(rows)} rows are too few for {parts} parts; {_MORE}")
    group = _groups(rows)
    if (distinct := int(group.max()) + 1) < parts:
        raise FileError(f"{distinct} distinct rows are too few for {parts} parts; {_MORE}")
    return group


def _in_order(group: npt.NDArray[np.int64], order: Indices, ends: npt.NDArray[Any]) -> list[Indices]:
    """Row numbers of each part, where groups of rows, in this order, fill the parts up to these numbers of rows."""
    cuts = _cuts(np.bincount(group)[order], ends)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    part = np.searchsorted(cuts, rank, side="right")[group]
    return [np.flatnonzero(part == number) for number in range(len(ends) + 1)]


def _cuts(sizes: npt.NDArray[Any], ends: npt.NDArray[Any]) -> Indices:
    """Places to cut groups of these sizes: parts end nearest to these numbers of rows, and each has a group."""
    middles = np.cumsum(sizes) - sizes / 2
    steps = np.arange(1, len(ends) + 1)
    cuts = np.searchsorted(middles, ends)
    # Move the cuts apart so that every part has a group.
    return np.clip(np.maximum.accumulate(cuts - steps), 0, len(sizes) - len(ends) - 1) + steps


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
