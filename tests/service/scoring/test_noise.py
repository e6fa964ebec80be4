"""Base samples are deterministic, finite, Gaussian, and more even than independent draws."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from service.bundle import Bundle
from service.scoring import noise

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=25)
@given(seed=SEEDS, num_draws=st.integers(1, 300), latent_size=st.integers(1, 40))
def test_a_bank_is_fixed_by_its_arguments(seed: int, num_draws: int, latent_size: int) -> None:
    base_samples = noise.base_samples(seed, num_draws, latent_size)
    assert base_samples.shape == (num_draws, latent_size)
    assert base_samples.dtype == np.float32
    assert np.all(np.isfinite(base_samples))
    np.testing.assert_array_equal(base_samples, noise.base_samples(seed, num_draws, latent_size))


@settings(max_examples=25)
@given(seed=SEEDS, few=st.integers(1, 64), more=st.integers(0, 200))
def test_a_smaller_bank_is_the_start_of_a_larger_one(seed: int, few: int, more: int) -> None:
    np.testing.assert_array_equal(noise.base_samples(seed, few, 5), noise.base_samples(seed, few + more, 5)[:few])


def test_seeds_differ() -> None:
    banks = [noise.base_samples(seed, 8, 3).tobytes() for seed in range(100)]
    assert len(set(banks)) == 100


def test_the_bank_is_that_of_the_default_bundle(digits_bundle: Bundle) -> None:
    """The same seed must mean the same noise in every release: clients may keep their scores."""
    manifest = digits_bundle.manifest
    base_samples = noise.base_samples(manifest.seed, manifest.num_draws, manifest.latent_size)
    np.testing.assert_array_equal(base_samples, digits_bundle.calibration["noise"])


@pytest.mark.parametrize("num_draws", [2**10, 2**16])
def test_moments_are_those_of_a_standard_normal(num_draws: int) -> None:
    base_samples = noise.base_samples(3, num_draws, 6).astype(np.float64)
    # Independent draws would miss by 1/√K; a whole power of two of Sobol points is far closer.
    tolerance = 0.3 / np.sqrt(num_draws)
    np.testing.assert_allclose(base_samples.mean(axis=0), 0, atol=tolerance)
    np.testing.assert_allclose(base_samples.var(axis=0), 1, atol=5 * tolerance)
    np.testing.assert_allclose(np.corrcoef(base_samples.T), np.eye(6), atol=10 * tolerance)
    assert all(stats.kstest(column, "norm").statistic < 2 / num_draws for column in base_samples.T)


def test_one_point_is_normal_over_the_seeds() -> None:
    points = np.array([noise.base_samples(seed, 1, 2)[0] for seed in range(2000)])
    for column in points.T:
        assert stats.kstest(column, "norm").pvalue > 1e-4


@pytest.mark.parametrize(("num_draws", "factor"), [(8, 1.5), (64, 3.0)])
def test_means_vary_less_than_with_independent_draws(num_draws: int, factor: float) -> None:
    def smooth(epsilon: np.ndarray) -> float:
        return float(np.mean(np.sum(epsilon + 0.3 * epsilon**2 + np.cos(epsilon), axis=1)))

    exact = 5 * (0.3 + np.exp(-0.5))
    seeds = range(300)
    errors = {
        name: np.sqrt(np.mean([(smooth(draw(seed).astype(np.float64)) - exact) ** 2 for seed in seeds]))
        for name, draw in {
            "sobol": lambda seed: noise.base_samples(seed, num_draws, 5),
            "independent": lambda seed: noise.standard_normal(seed, (num_draws, 5)),
        }.items()
    }
    assert errors["sobol"] * factor < errors["independent"]


def test_no_coordinate_of_the_largest_bank_is_infinite() -> None:
    assert np.all(np.isfinite(noise.base_samples(0, noise.MAX_DRAWS, 8)))


@settings(max_examples=25)
@given(seed=SEEDS, shape=st.tuples(st.integers(0, 20), st.integers(1, 20)))
def test_draws_are_fixed_by_seed_and_shape(seed: int, shape: tuple[int, int]) -> None:
    for draw in (noise.standard_normal, noise.uniform):
        values = draw(seed, shape)
        assert values.shape == shape
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, draw(seed, shape))


def test_uniform_draws_lie_in_the_open_interval() -> None:
    values = noise.uniform(1, (2**18,))
    assert values.min() > 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-4
    assert np.all(values.astype(np.float64) * 2**24 % 2 == 1)  # Each is the centre of one of 2²³ cells.
    # The extreme cells' centres, which rounding to float32 must not take to 0 or 1.
    assert 0 < np.float32(0.5 / 2**23) < np.float32((2**23 - 0.5) / 2**23) < 1


def test_normal_draws_are_normal() -> None:
    assert stats.kstest(noise.standard_normal(1, (10**5,)), "norm").pvalue > 1e-4


INTERRUPTED = """
import numpy as np
from service.errors import NotReadyError
from service.scoring import noise

def interrupted(*_, **__):
    raise KeyboardInterrupt

load, np.load = np.load, interrupted
try:
    noise.base_samples(1, 2, 3)
except (NotReadyError, KeyboardInterrupt):
    np.load = load
    print(noise.base_samples(1, 2, 3).tolist())
"""


def test_no_points_are_drawn_by_numbers_that_were_not_loaded() -> None:
    """SciPy ignores an interrupt meanwhile; its numbers are loaded once in a process."""
    process = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=True)
    assert process.stdout == f"{noise.base_samples(1, 2, 3).tolist()}\n"
