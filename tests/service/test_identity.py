"""On the CPU a row's bounds are the same bits alone, anywhere in any batch, in any format, and under load."""

import io
import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from service.bundle import Bundle
from service.manifest import BOUNDS

Array = npt.NDArray[Any]
Answer = dict[str, bytes]
Serve = Callable[..., AbstractContextManager[httpx.Client]]

COLUMNS = (*BOUNDS, "score", "p_value")
NPY = "application/x-npy"
READING = threading.Lock()  # NumPy reads headers by ast.parse, which Python 3.11 cannot do in two threads at once.


@pytest.fixture(scope="module", params=[1, 2], ids=["one lane", "two lanes"])
def server(request: pytest.FixtureRequest, serve: Serve) -> Iterator[httpx.Client]:
    """A small batch, so that large requests are split and small ones put together."""
    with serve("--device", "cpu", "--lanes", str(request.param), "--max-batch", "200") as client:
        yield client


@pytest.fixture(scope="module")
def rows(digits_bundle: Bundle) -> Array:
    golden = digits_bundle.golden["elbo"]["x"]
    noise = np.random.default_rng(0).integers(0, 17, (256 - len(golden), 8, 8), dtype=np.uint8)
    return np.concatenate([golden, noise])


def elbo(client: httpx.Client, rows: Array, *, binary: bool = True, accept_binary: bool = True) -> list[Answer]:
    """For each row, the bits of every column."""
    buffer = io.BytesIO()
    np.save(buffer, rows)
    body = buffer.getvalue() if binary else json.dumps({"instances": rows.tolist()}).encode()
    headers = {
        "Content-Type": NPY if binary else "application/json",
        "Accept": NPY if accept_binary else "application/json",
    }
    response = client.post("/elbo", content=body, headers=headers).raise_for_status()
    assert response.headers["Lowerbound-Device"] == "cpu"
    with READING:
        answer: Any = np.load(io.BytesIO(response.content)) if accept_binary else response.json()
    columns = {name: np.array(answer[name], np.float64) for name in COLUMNS}
    return [{name: values[i].tobytes() for name, values in columns.items()} for i in range(len(rows))]


@pytest.fixture(scope="module")
def alone(server: httpx.Client, rows: Array) -> list[Answer]:
    """What each row gets on its own."""
    return [elbo(server, rows[i : i + 1])[0] for i in range(len(rows))]


def test_rows_differ(alone: list[Answer]) -> None:
    assert len({answer["elbo"] for answer in alone}) == len(alone)


def test_alone_and_among_others(server: httpx.Client, rows: Array, alone: list[Answer]) -> None:
    assert elbo(server, rows) == alone
    assert elbo(server, rows[::-1].copy()) == alone[::-1]


@pytest.mark.parametrize("position", [0, 1, 7, 127, 128, 254, 255])
def test_at_any_position(server: httpx.Client, rows: Array, alone: list[Answer], position: int) -> None:
    order = np.roll(np.arange(256), position)
    assert elbo(server, rows[order])[position] == alone[0]


@pytest.mark.parametrize("size", [2, 3, 5, 12, 13, 31, 100])
def test_in_batches_of_any_size(server: httpx.Client, rows: Array, alone: list[Answer], size: int) -> None:
    assert elbo(server, rows[:size]) == alone[:size]


def test_in_any_format(server: httpx.Client, rows: Array, alone: list[Answer]) -> None:
    for binary in (False, True):
        for accept_binary in (False, True):
            assert elbo(server, rows[:9], binary=binary, accept_binary=accept_binary) == alone[:9]


def test_under_load(server: httpx.Client, rows: Array, alone: list[Answer]) -> None:
    def client(number: int) -> int:
        chance = random.Random(number)
        asked = 0
        with httpx.Client(base_url=server.base_url, timeout=60) as own:
            for _ in range(8):
                chosen = chance.sample(range(256), chance.choice([1, 1, 2, 5, 17, 40]))
                formats = {"binary": chance.random() < 0.7, "accept_binary": chance.random() < 0.7}
                assert elbo(own, rows[chosen], **formats) == [alone[i] for i in chosen]
                asked += len(chosen)
        return asked

    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(client, range(32))) >= 256


def test_lanes_make_no_difference(serve: Serve, server: httpx.Client, digits: httpx.Client, rows: Array) -> None:
    """`server` has one lane, then two; `digits` has one for each core, and larger batches."""
    if digits.get("/model").json()["device"] != "cpu":
        pytest.skip("the default device here is not the CPU")
    assert elbo(server, rows) == elbo(digits, rows)
