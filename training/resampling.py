"""Training rows that are another draw at every epoch: black-and-white images made from grey ones.

Dynamic binarisation (Salakhutdinov and Murray 2008, "On the quantitative analysis of deep belief networks"): a grey
level is the probability that a pixel is white, and the model never sees the same image twice.

This module must not know about models, or how an epoch is ordered.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from training.datasets import Dataset, Indices


@dataclass(frozen=True, eq=False)
class GreyLevels:
    """Images (N, *shape), uint8; a pixel of level v is white (1) with probability v/255, else black (0)."""

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
        levels = self.levels[numbers]
        return (torch.rand(levels.shape, generator=generator).to(levels.device) < levels / 255).to(torch.uint8)


def training_rows(dataset: Dataset, part: Indices) -> Tensor | GreyLevels:
    """The rows of one part, as the training loop takes them."""
    if dataset.levels is None:
        return torch.from_numpy(dataset.rows[part])
    return GreyLevels(torch.from_numpy(np.ascontiguousarray(dataset.levels[part])))


def take(rows: Tensor | GreyLevels, numbers: Tensor, generator: torch.Generator) -> Tensor:
    """The rows of these numbers, (b, *shape); the generator is used only where they are drawn afresh."""
    return rows[numbers] if isinstance(rows, Tensor) else rows.draw(numbers, generator)
