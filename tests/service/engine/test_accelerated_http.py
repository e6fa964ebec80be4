"""The service over HTTP on engines for accelerators, with the CPU in their place: nothing changes but the speed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import run_server
from tests.service.http_client import NPY, Array, assert_same, columns, post, send_request

OPERATIONS: list[tuple[str, dict[str, Any]]] = [
    ("/elbo", {}),
    ("/elbo", {"num_draws": 7, "seed": 3}),
    ("/elbo", {"refine": 3, "explain": True}),
    ("/encode", {"num_draws": 2}),
    ("/decode", {}),
    ("/decode", {"draw": True, "seed": 5}),
]


@pytest.fixture(scope="module")
def accelerated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    log = tmp_path_factory.mktemp("accelerated") / "log"
    program = ("tests.service.accelerated_server",)
    with run_server("--max-batch", "64", "--engine-threads", "4", log=log, program=program) as client:
        yield client


def test_the_answers_are_the_same_bits_under_load(accelerated: httpx.Client, digits: httpx.Client) -> None:
    generator = np.random.default_rng(0)

    def rows(path: str, number: int) -> Array:
        if path == "/decode":
            return generator.standard_normal((number, 16), dtype=np.float32)
        return generator.integers(0, 17, (number, 8, 8), dtype=np.uint8)

    cases = [(path, rows(path, number), query) for number in (1, 3, 20) for path, query in OPERATIONS] * 3

    def send(case: tuple[str, Array, dict[str, Any]]) -> httpx.Response:
        path, array, query = case
        return post(accelerated, path, array, NPY, binary=True, **query)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, cases))
    for (path, array, query), answer in zip(cases, answers, strict=True):  # Python 3.11 reads .npy in one thread only.
        assert_same(columns(answer), send_request(digits, path, array, binary=True, **query))


def test_the_model_says_which_precisions_were_refused(accelerated: httpx.Client) -> None:
    answer = accelerated.get("/model").raise_for_status().json()
    assert answer["precision"] == "float32"
    assert answer["refused_precisions"] == {"tf32": 2.5}
    assert answer["golden_error"] <= 1
