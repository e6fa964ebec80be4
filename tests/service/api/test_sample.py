"""`/sample`: latents from the prior, and what is decoded from them."""

from typing import Any

import httpx
import numpy as np
import pytest

from service.bundle import Bundle
from service.engine import OnnxEngine
from service.scoring import noise
from tests.service.http_client import NPY, PNG, Array, assert_problem, columns, picture, send_request


def test_sample_decodes_its_latents(digits: httpx.Client, digits_bundle: Bundle, latent_size: int) -> None:
    answer = columns(digits.get("/sample", params={"n": 6, "seed": 2}, headers={"Accept": NPY}))
    assert list(answer) == ["latents", "instances"]
    assert answer["latents"].dtype == answer["instances"].dtype == np.float32
    decoded = send_request(digits, "/decode", answer["latents"], binary=True)["instances"]
    np.testing.assert_array_equal(answer["instances"], decoded)
    graphs = {"prior": digits_bundle.manifest.graphs["prior"]}
    given = {"normal": noise.standard_normal(2, (6, latent_size)), "uniform": noise.uniform(2, (6, 1), 1)}
    expected = OnnxEngine(graphs, digits_bundle.files, "cpu").run("prior", given)["z"]
    np.testing.assert_array_equal(answer["latents"], expected)


def test_sample_follows_the_seed(digits: httpx.Client, digits_bundle: Bundle) -> None:
    def sample(**query: Any) -> bytes:
        return digits.get("/sample", params=query).raise_for_status().content

    assert sample(seed=2) == sample(seed=2)
    assert sample() == sample(seed=digits_bundle.manifest.seed, n=16, temperature=1.0)
    assert len({sample(seed=seed) for seed in range(5)}) == 5


def test_temperature_is_a_factor_of_the_distance_from_a_centre(digits: httpx.Client) -> None:
    def sample(temperature: float) -> dict[str, Array]:
        return columns(digits.get("/sample", params={"n": 3, "temperature": temperature}, headers={"Accept": NPY}))

    cold = sample(0)
    centres = cold["latents"]
    np.testing.assert_allclose(
        sample(2.5)["latents"] - centres, 2.5 * (sample(1)["latents"] - centres), rtol=1e-5, atol=1e-6
    )
    assert len(np.unique(centres, axis=0)) == 3  # Of three components.
    decoded = send_request(digits, "/decode", centres, binary=True)["instances"]
    np.testing.assert_array_equal(cold["instances"], decoded)


@pytest.mark.parametrize(("n", "grid"), [(1, (1, 1)), (2, (1, 2)), (5, (2, 3)), (16, (4, 4))])
def test_a_picture_shows_the_samples(digits: httpx.Client, n: int, grid: tuple[int, int]) -> None:
    pixels = picture(digits.get("/sample", params={"n": n}, headers={"Accept": PNG}))
    answer = columns(digits.get("/sample", params={"n": n}, headers={"Accept": NPY}))["instances"]
    assert pixels.shape == (8 * grid[0], 8 * grid[1])
    for i in range(grid[0] * grid[1]):
        row, column = divmod(i, grid[1])
        tile = pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        wanted = np.round(255 * np.clip(answer[i] / 16, 0, 1)).astype(np.uint8) if i < n else np.zeros((8, 8), np.uint8)
        np.testing.assert_array_equal(tile, wanted)


@pytest.mark.parametrize(
    "query",
    [{"n": 0}, {"n": -1}, {"temperature": -1}, {"temperature": "nan"}, {"temperature": "inf"}, {"seed": "x"}, {"N": 1}],
)
def test_wrong_sampling_parameters(digits: httpx.Client, query: dict[str, Any]) -> None:
    assert_problem(digits.get("/sample", params=query), 422, "", f"query.{next(iter(query))}")
