"""`/encode`: the posterior, and draws from it."""

import httpx
import numpy as np
import pytest

from service.bundle import Bundle
from service.scoring import noise
from tests.service.http_client import Array, send_request


def test_encode_answers_the_posterior(digits: httpx.Client, digits_bundle: Bundle) -> None:
    golden = digits_bundle.golden["encoder"]
    answer = send_request(digits, "/encode", golden["x"], binary=True)
    assert list(answer) == ["mean", "log_variance"]
    assert all(values.dtype == np.float32 and values.shape == golden["mean"].shape for values in answer.values())
    for name, values in answer.items():
        np.testing.assert_allclose(values, golden[name], atol=1e-4)


@pytest.mark.parametrize("seed", [None, 0, 3])
@pytest.mark.parametrize("num_draws", [1, 16, 20])
def test_posterior_draws_are_the_mean_and_the_noise(
    digits: httpx.Client, digits_bundle: Bundle, x: Array, num_draws: int, seed: int | None
) -> None:
    query = {"num_draws": num_draws} | ({} if seed is None else {"seed": seed})
    answer = send_request(digits, "/encode", x, binary=True, **query)
    base_samples = noise.base_samples(
        seed or digits_bundle.manifest.seed, num_draws, digits_bundle.manifest.latent_size
    )
    assert answer["draws"].dtype == np.float32
    assert answer["draws"].shape == (5, *base_samples.shape)
    expected = answer["mean"][:, None] + np.exp(0.5 * answer["log_variance"])[:, None] * base_samples
    np.testing.assert_allclose(answer["draws"], expected, rtol=1e-6, atol=1e-6)
