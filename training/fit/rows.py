"""Training rows as an epoch takes them: in memory, on the disk, or drawn afresh."""

import mmap
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.datasets import Dataset, Indices

SAMPLED = 2**28
"""Bytes of rows that set a model's scales: more would hardly move them."""


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Rows on the disk, read when they are indexed.

    Attributes:
        rows: All of a file's, (N, *shape).
        part: The numbers of those meant here, (n,).
    """

    rows: np.memmap[Any, Any]
    part: Indices

    def __post_init__(self) -> None:
        # Else every read brings what lies behind the row as well, which is not asked for next.
        self._file.madvise(mmap.MADV_RANDOM)

    def __len__(self) -> int:
        return len(self.part)

    @property
    def nbytes(self) -> int:
        return len(self.part) * self.rows[:1].nbytes

    def to(self, device: torch.device) -> Self | Tensor:
        """The same rows in the memory of a device; for the CPU they stay where they are."""
        return self if device.type == "cpu" else torch.from_numpy(self.rows[self.part]).to(device)

    def read(self, numbers: Tensor) -> Tensor:
        """The rows of these numbers among the part's: (b, *shape)."""
        places = self.part[numbers.cpu().numpy()]
        size, offset = self.rows[:1].nbytes, self.rows.offset % mmap.ALLOCATIONGRANULARITY
        for start in (offset + size * places).tolist():
            # Asked for together, they come from the disk at the same time.
            page = start - start % mmap.PAGESIZE
            self._file.madvise(mmap.MADV_WILLNEED, page, start + size - page)
        return torch.from_numpy(self.rows[places])

    @property
    def _file(self) -> mmap.mmap:
        return cast("mmap.mmap", self.rows.base)


@dataclass(frozen=True, eq=False)
class GreyLevels:
    """Images (N, *shape), uint8; a pixel of level v is white (1) with probability v/255, else black (0).

    A model of them never sees the same image twice: dynamic binarisation (Salakhutdinov and Murray 2008, "On the
    quantitative analysis of deep belief networks").
    """

    levels: Tensor

    def __len__(self) -> int:
        return len(self.levels)

    @property
    def nbytes(self) -> int:
        return self.levels.nbytes

    def to(self, device: torch.device) -> Self:
        """The same images in a device's memory."""
        return type(self)(self.levels.to(device))

    def draw(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """The rows of these numbers, drawn now: (b, *shape), uint8, 0 or 1."""
        levels = self.levels[numbers.to(self.levels.device)]
        uniform = torch.rand(levels.shape, generator=generator, device=generator.device)
        return (uniform.to(levels.device) < levels / 255).to(torch.uint8)


TrainingRows = Tensor | StoredRows | GreyLevels


def training_rows(dataset: Dataset, part: Indices) -> TrainingRows:
    """The rows of one part, as the training loop takes them."""
    if dataset.levels is not None:
        return GreyLevels(torch.from_numpy(np.ascontiguousarray(dataset.levels[part])))
    if isinstance(dataset.rows, np.memmap):
        return StoredRows(dataset.rows, part)
    return torch.from_numpy(dataset.rows[part])


def take(rows: TrainingRows, numbers: Tensor, share: slice, generator: torch.Generator) -> Tensor:
    """One process's share of the rows of these numbers, (b, *shape).

    The generator is used only where rows are drawn afresh, and then for those of all processes.
    """
    match rows:
        case GreyLevels():
            return rows.draw(numbers, generator)[share]
        case StoredRows():
            return rows.read(numbers[share])
        case _:
            return rows[numbers[share].to(rows.device)]


def sample(dataset: Dataset, part: Indices, seed: int) -> npt.NDArray[Any]:
    """The rows that set a model's scales: all of a part or, chosen at random, `SAMPLED` bytes of them."""
    most = SAMPLED // dataset.rows[:1].nbytes
    if len(part) > most:
        part = np.sort(np.random.default_rng(seed).choice(part, most, replace=False))
    return dataset.rows[part]
