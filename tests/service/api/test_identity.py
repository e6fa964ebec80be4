"""On the CPU a row's bounds are the same bits alone, in any batch and format, by any worker, and under load."""

import io
import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from service.bundle import BOUNDS, Bundle
from tests.conftest import Serve
from tests.service.http_client import ARROW, JSON, NPY, Array, arrow, npy

Answer = dict[str, bytes]

COLUMNS = (*BOUNDS, "score", "p_value")
READING = threading.Lock()  # NumPy reads headers by ast.parse, which Python 3.11 cannot do in two threads at once.


SERVERS = {
    "one engine thread": ["--engine-threads", "1"],
    "two engine threads": ["--engine-threads", "2"],
    "two workers": ["--workers", "2"],
}


EVERY = [pytest.param(name, marks=pytest.mark.slow if "workers" in name else ()) for name in SERVERS]


@pytest.fixture(scope="module", params=EVERY)
def server(request: pytest.FixtureRequest, serve: Serve) -> Iterator[httpx.Client]:
    """A small batch, so that large requests are split and small ones put together."""
    with serve("--device", "cpu", "--max-batch", "200", *SERVERS[request.param]) as client:
        yield client


@pytest.fixture(scope="module")
def rows(digits_bundle: Bundle) -> Array:
    golden = digits_bundle.golden["elbo"]["x"]
    noise = np.random.default_rng(0).integers(0, 17, (256 - len(golden), 8, 8), dtype=np.uint8)
    return np.concatenate([golden, noise])


def read_npy(body: bytes) -> Any:
    with READING:
        return np.load(io.BytesIO(body))


WRITE: dict[str, Callable[[Array], bytes]] = {
    JSON: lambda rows: json.dumps({"instances": rows.tolist()}).encode(),
    NPY: npy,
    ARROW: lambda rows: arrow(pa.table({"instances": pa.FixedShapeTensorArray.from_numpy_ndarray(rows)})),
}
READ: dict[str, Callable[[bytes], Any]] = {
    JSON: json.loads,
    NPY: read_npy,
    ARROW: lambda body: pa.ipc.open_stream(body).read_all().to_pydict(),
}
FORMATS = [(sent, accepted) for sent in WRITE for accepted in READ]


def elbo(client: httpx.Client, rows: Array, sent: str = NPY, accepted: str = NPY) -> list[Answer]:
    """For each row, the bits of every column."""
    headers = {"Content-Type": sent, "Accept": accepted}
    response = client.post("/elbo", content=WRITE[sent](rows), headers=headers).raise_for_status()
    assert response.headers["Lowerbound-Device"] == "cpu"
    return bits(READ[accepted](response.content), len(rows))


def infer(client: httpx.Client, rows: Array, *, binary: bool) -> list[Answer]:
    """The same by the Open Inference Protocol."""
    tensor = {"name": "x", "shape": rows.shape, "datatype": "UINT8"}
    data = {"parameters": {"binary_data_size": rows.nbytes}} if binary else {"data": rows.ravel().tolist()}
    head = json.dumps({"inputs": [tensor | data], "parameters": {"binary_data_output": binary}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))} if binary else {}
    response = client.post(
        "/v2/models/digits/infer", content=head + (rows.tobytes() if binary else b""), headers=headers
    ).raise_for_status()
    size = int(response.headers.get("Inference-Header-Content-Length", len(response.content)))
    columns, place = {}, size
    for output in json.loads(response.content[:size])["outputs"]:
        columns[output["name"]] = output.get("data") or np.frombuffer(response.content, "<f8", len(rows), place)
        place += output.get("parameters", {}).get("binary_data_size", 0)
    return bits(columns, len(rows))


def bits(answer: Any, number: int) -> list[Answer]:
    columns = {name: np.array(answer[name], np.float64) for name in COLUMNS}
    return [{name: values[i].tobytes() for name, values in columns.items()} for i in range(number)]


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


@pytest.mark.parametrize(("sent", "accepted"), FORMATS)
def test_in_any_format(server: httpx.Client, rows: Array, alone: list[Answer], sent: str, accepted: str) -> None:
    assert elbo(server, rows[:9], sent, accepted) == alone[:9]


def test_as_a_picture(server: httpx.Client, rows: Array, alone: list[Answer]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.round(rows[3] * (255 / 16)).astype(np.uint8)).save(buffer, "png")
    answer = server.post("/elbo", content=buffer.getvalue(), headers={"Content-Type": "image/png", "Accept": NPY})
    assert bits(read_npy(answer.raise_for_status().content), 1) == [alone[3]]


@pytest.mark.parametrize("binary", [False, True])
def test_by_the_open_inference_protocol(server: httpx.Client, rows: Array, alone: list[Answer], binary: bool) -> None:
    assert infer(server, rows[:9].astype(np.uint8), binary=binary) == alone[:9]


def test_under_load(server: httpx.Client, rows: Array, alone: list[Answer]) -> None:
    def client(number: int) -> int:
        chance = random.Random(number)
        asked = 0
        with httpx.Client(base_url=server.base_url, timeout=60) as own:
            for _ in range(8):
                chosen = chance.sample(range(256), chance.choice([1, 1, 2, 5, 17, 40]))
                expected = [alone[i] for i in chosen]
                if chance.random() < 0.2:
                    assert infer(own, rows[chosen].astype(np.uint8), binary=chance.random() < 0.5) == expected
                else:
                    assert elbo(own, rows[chosen], *chance.choice(FORMATS)) == expected
                asked += len(chosen)
        return asked

    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(client, range(32))) >= 256


def test_lanes_make_no_difference(serve: Serve, server: httpx.Client, digits: httpx.Client, rows: Array) -> None:
    """`server` has one engine thread, then two, then two processes; `digits` one for each core, and larger batches."""
    if digits.get("/model").json()["device"] != "cpu":
        pytest.skip("the default device here is not the CPU")
    assert elbo(server, rows) == elbo(digits, rows)
