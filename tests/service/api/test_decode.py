"""`/decode`: the expectation of x given z, and draws."""

from typing import Any

import httpx
import numpy as np

from service.bundle import Bundle
from tests.service.http_client import PNG, Array, assert_problem, picture, post, send_request


def test_decode_answers_the_expectation(digits: httpx.Client, digits_bundle: Bundle) -> None:
    golden = digits_bundle.golden["decoder"]
    answer = send_request(digits, "/decode", golden["z"], binary=True)["instances"]
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, golden["x_mean"], atol=1e-3)


def test_drawn_instances_follow_the_seed(digits: httpx.Client, digits_bundle: Bundle, z: Array) -> None:
    def draw(**query: Any) -> Array:
        return send_request(digits, "/decode", z, binary=True, draw=True, **query)["instances"]

    assert draw().shape == (5, 8, 8)
    np.testing.assert_array_equal(draw(seed=3), draw(seed=3))
    np.testing.assert_array_equal(draw(), draw(seed=digits_bundle.manifest.seed))
    assert not np.array_equal(draw(seed=3), draw(seed=4))
    assert not np.array_equal(draw(), send_request(digits, "/decode", z, binary=True)["instances"])


def test_a_picture_shows_what_is_decoded(digits: httpx.Client, z: Array) -> None:
    decoded = send_request(digits, "/decode", z[:1], binary=True)["instances"]
    pixels = picture(post(digits, "/decode", z[:1], PNG))
    np.testing.assert_array_equal(pixels, np.round(255 * np.clip(decoded[0] / 16, 0, 1)).astype(np.uint8))


def test_wrong_latents(digits: httpx.Client, z: Array, latent_size: int) -> None:
    for value, detail in ((np.nan, "nan"), (np.inf, "inf"), (1e39, "inf")):
        wrong = z.astype(float)
        wrong[3, 7] = value
        answer = post(digits, "/decode", wrong, binary=True)
        assert_problem(answer, 422, f"{detail} is not a finite number in float32", "latents[3][7]")
    for binary in (False, True):
        answer = post(digits, "/decode", z[:, :-1], binary=binary)
        assert_problem(answer, 422, f"{latent_size} values, not {latent_size - 1}", "latents[0]")
    answer = digits.post("/decode", json={"instances": z.tolist()})
    assert_problem(answer, 422, 'the one key "latents"', "body")
