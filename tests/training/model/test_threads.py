"""The number of threads: one for small batches, and afterwards as many as before."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training.conftest import TRAIN, L, new_vae
from training.fit import FitRecipe
from training.fit.loop import fit
from training.model.threads import SMALL, enough_threads

PAUSES = """
import os, threading, time, training, torch

torch.set_num_threads(2)
numbers = torch.ones(2**16)
for _ in range(100):
    numbers.exp()
    time.sleep(0.005)
others = {int(thread) for thread in os.listdir("/proc/self/task")} - {threading.get_native_id()}
print(sum(int(open(f"/proc/self/task/{thread}/schedstat").read().split()[0]) for thread in others) / 1e9)
"""
"""Half a second of pauses; prints the seconds of processor that the other threads have used."""


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("draws", "threads"), [(64, 1), (SMALL, 2)])
def test_one_thread_computes_small_batches(draws: int, threads: int) -> None:
    with enough_threads(new_vae(), torch.from_numpy(TRAIN[:1]), draws):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 2


def test_one_thread_trains_a_small_model(tmp_path: Path) -> None:
    vae = new_vae()
    seen = set()
    vae.encoder.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
    rows = torch.from_numpy(TRAIN[:200])
    fit(vae, rows, rows[:50], torch.zeros(2, L), FitRecipe(epochs=1), tmp_path)
    assert seen == {1}


def test_waiting_threads_sleep() -> None:
    answer = subprocess.run([sys.executable, "-c", PAUSES], check=True, capture_output=True, text=True)
    assert float(answer.stdout) < 0.25
