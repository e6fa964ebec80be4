"""Dynamic binarisation: pixels are white as often as their grey level says, and epochs differ but can be repeated."""

import numpy as np
import torch
from accelerate import Accelerator

from service.manifest import ImageInput
from training.datasets import Dataset
from training.fit import epoch_batches
from training.recipes import FitRecipe
from training.resampling import GreyLevels, take, training_rows

LEVELS = np.array([[[0, 51, 128, 255]]], np.uint8)


def epoch(rows: torch.Tensor | GreyLevels, number: int) -> torch.Tensor:
    batches = epoch_batches(rows, 2, number, 1, FitRecipe(batch_size=4), Accelerator())
    return torch.cat([x for x, _ in batches])


def test_pixels_are_white_as_often_as_their_level_says() -> None:
    rows = GreyLevels(torch.from_numpy(np.repeat(LEVELS, 20_000, axis=0)))
    drawn = take(rows, torch.arange(20_000), torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.uint8
    assert set(drawn.unique().tolist()) == {0, 1}
    share = drawn.double().mean(0)[0].numpy()
    assert share[0] == 0
    assert share[3] == 1
    np.testing.assert_allclose(share, LEVELS[0, 0] / 255, atol=4 * 0.5 / np.sqrt(20_000))


def test_epochs_differ_and_can_be_repeated() -> None:
    rows = GreyLevels(torch.from_numpy(np.full((10, 8, 8), 128, np.uint8)))
    assert torch.equal(epoch(rows, 1), epoch(rows, 1))
    assert len(epoch(rows, 1)) == 10
    assert not torch.equal(epoch(rows, 1).sum(0), epoch(rows, 2).sum(0))


def test_rows_that_are_not_drawn_stay_as_they_are() -> None:
    schema = ImageInput(shape=(1, 4), dtype="uint8", low=0, high=255)
    dataset = Dataset(schema, np.arange(40, dtype=np.uint8).reshape(10, 1, 4))
    rows = training_rows(dataset, np.array([1, 3, 5]))
    assert isinstance(rows, torch.Tensor)
    assert sorted(epoch(rows, 1)[:, 0, 0].tolist()) == [4, 12, 20]


def test_levels_are_those_of_the_part() -> None:
    schema = ImageInput(shape=(1, 4), dtype="uint8", low=0, high=1)
    levels = np.zeros((10, 1, 4), np.uint8)
    levels[3] = 255
    rows = training_rows(Dataset(schema, np.zeros_like(levels), levels=levels), np.array([1, 3, 5]))
    assert isinstance(rows, GreyLevels)
    assert epoch(rows, 1)[:, 0, 0].tolist().count(1) == 1
