"""Training rows: read as they are, in memory or on the disk; or drawn afresh, as often white as the grey level says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from service.bundle import ImageInput, NumericColumn, TabularInput
from training.datasets import Dataset
from training.fit import FitRecipe, sample, training_rows
from training.fit.loop import epoch_batches
from training.fit.rows import GreyLevels, StoredRows, TrainingRows, take

LEVELS = np.array([[[0, 51, 128, 255]]], np.uint8)


def epoch(rows: TrainingRows, number: int, steps: int = 0) -> torch.Tensor:
    batches = epoch_batches(rows, 2, number, steps or -(-len(rows) // 4), FitRecipe(batch_size=4), Accelerator())
    return torch.cat([x for x, _ in batches])


def test_pixels_are_white_as_often_as_their_level_says() -> None:
    rows = GreyLevels(torch.from_numpy(np.repeat(LEVELS, 20_000, axis=0)))
    drawn = take(rows, torch.arange(20_000), slice(None), torch.Generator().manual_seed(0))
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


def test_another_seed_gives_another_order_and_other_noise() -> None:
    rows = torch.arange(20.0).reshape(10, 2)
    recipes = [FitRecipe(batch_size=10, seed=seed) for seed in (0, 1)]
    first, second = (next(epoch_batches(rows, 2, 1, 1, recipe, Accelerator())) for recipe in recipes)
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


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


def stored(folder: Path) -> Dataset:
    rows = np.random.default_rng(0).normal(size=(100, 3))
    np.save(folder / "x.npy", rows)
    columns = tuple(NumericColumn(name=f"x{i}") for i in range(3))
    return Dataset(TabularInput(columns=columns), np.load(folder / "x.npy", mmap_mode="r"))


def test_rows_on_the_disk_come_in_the_order_of_those_in_memory(tmp_path: Path) -> None:
    dataset, part = stored(tmp_path), np.arange(1, 100, 2)
    rows = training_rows(dataset, part)
    assert isinstance(rows, StoredRows)
    in_memory = torch.from_numpy(dataset.rows[part])
    assert len(rows) == len(in_memory)
    assert rows.nbytes == in_memory.nbytes
    assert torch.equal(epoch(rows, 1), epoch(in_memory, 1))
    assert rows.to(torch.device("cpu")) is rows
    assert rows.to(torch.device("meta")).shape == in_memory.shape  # type: ignore[union-attr]


@pytest.mark.parametrize("number", range(3))
def test_every_process_gets_its_own_share(number: int, tmp_path: Path) -> None:
    dataset = stored(tmp_path)
    rows = training_rows(dataset, np.arange(100))
    found = take(rows, torch.arange(10, 20), slice(number, None, 3), torch.Generator())
    assert torch.equal(found, torch.from_numpy(dataset.rows[10 + number : 20 : 3].copy()))


def test_scales_are_set_by_a_sample_of_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, part = stored(tmp_path), np.arange(1, 100, 2)
    np.testing.assert_array_equal(sample(dataset, part, seed=0), dataset.rows[part])
    monkeypatch.setattr("training.fit.rows.SAMPLED", 10 * 3 * 8)
    found = sample(dataset, part, seed=0)
    assert found.shape == (10, 3)
    assert {row.tobytes() for row in found} <= {row.tobytes() for row in dataset.rows[part]}
    assert len({row.tobytes() for row in found}) == 10
    np.testing.assert_array_equal(found, sample(dataset, part, seed=0))
    assert not np.array_equal(found, sample(dataset, part, seed=1))


def test_no_row_comes_again_before_all_have_come() -> None:
    rows = torch.arange(10.0)[:, None]
    assert len(epoch(rows, 1, steps=2).unique()) == 8
    assert torch.equal(epoch(rows, 1, steps=3).sort(0).values, rows)
    twice = epoch(rows, 1, steps=5)
    assert torch.equal(twice[:10].sort(0).values, rows)
    assert len(twice[10:].unique()) == 8
    assert not torch.equal(epoch(rows, 1, steps=2), epoch(rows, 2, steps=2))
