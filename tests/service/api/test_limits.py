"""Requests that are too large, too many or too long are refused, and no others."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.bundle import Bundle, ImageInput, write_bundle
from service.engine import OnnxEngine
from service.errors import TooLargeError
from service.inference import Limits, Model
from service.scoring import ElboQuery
from tests.conftest import Serve, process_of, run_server, wait_until
from tests.service.http_client import Array, assert_problem, columns, npy, post
from tests.service.toy_bundles import bundle_files, image_graphs


@pytest.mark.parametrize(
    ("path", "query", "location"),
    [
        ("/elbo", {"num_draws": 1025}, "query.num_draws"),
        ("/elbo", {"num_draws": 10**18}, "query.num_draws"),
        ("/elbo", {"num_draws": 1024}, "query.num_draws"),
        ("/encode", {"num_draws": 1025}, "query.num_draws"),
        ("/encode", {"num_draws": 1000}, "query.num_draws"),
    ],
)
def test_too_many_draws(small: httpx.Client, x: Array, path: str, query: dict[str, Any], location: str) -> None:
    assert_problem(post(small, path, x, **query), 413, "draws", location)


def test_a_refusal_says_how_many_rows_fit(small: httpx.Client, x: Array) -> None:
    def refused(rows: Array, detail: str, location: str, **query: Any) -> None:
        assert_problem(post(small, "/elbo", rows, binary=True, **query), 413, detail, location)

    few = {"num_draws": 1000}
    refused(x, "5 rows × 1,000 draws are 5,000 draws; .* for 4,096: send at most 4 rows$", "query.num_draws", **few)
    refused(x, "each with 999 steps of refinement, .*: ask for at most 4 draws$", "query.refine", refine=999)
    many = np.repeat(x[:1], 41, axis=0)
    assert "send at most 40 rows" in post(small, "/elbo", many, binary=True, num_draws=100).json()["detail"]
    assert post(small, "/elbo", many[:40], binary=True, num_draws=100).status_code == 200


def test_as_many_draws_as_are_allowed(small: httpx.Client, x: Array, latent_size: int) -> None:
    assert columns(post(small, "/elbo", x[:4], num_draws=1024))["elbo"].shape == (4,)
    explained = columns(post(small, "/elbo", x[:4], num_draws=1024, explain=True))
    assert explained["latent_kl"].shape == (4, latent_size)


def test_too_many_samples(small: httpx.Client) -> None:
    assert len(small.get("/sample", params={"n": 4096}).json()["latents"]) == 4096
    for n in (4097, 10**18):
        assert_problem(small.get("/sample", params={"n": n}), 413, "one request may ask for 4,096", "query.n")


def test_few_bytes_do_not_ask_for_any_number_of_pictures(serve: Serve, tmp_path: Path) -> None:
    data = ImageInput(shape=(256, 256, 3), dtype="uint8", low=0, high=255)
    bundle = bundle_files("pictures", data, image_graphs(data), np.zeros((1, 256, 256, 3), np.uint8))
    write_bundle(tmp_path, *bundle)
    with serve("--models", str(tmp_path), "--max-body", "100000", "--engine-threads", "1") as client:
        detail = "200 rows × 786,440 bytes; one answer may have 134,217,728: ask for at most 170 rows"
        assert_problem(client.get("/sample", params={"n": 200}), 413, detail, "query.n")
        z = np.zeros((200, 2), np.float32)
        assert_problem(post(client, "/decode", z, binary=True), 413, "ask for at most 170 rows", "latents")
        sent = {"name": "z", "shape": [200, 2], "datatype": "FP32", "data": z.ravel().tolist()}
        answer = client.post("/v2/models/pictures.decoder/infer", json={"inputs": [sent]})
        assert (answer.status_code, "at most 170 rows" in answer.text) == (413, True)
        assert client.get("/sample", params={"n": 2}, headers={"Accept": "application/x-npy"}).is_success


def test_few_rows_do_not_ask_for_any_size_of_answer(digits_bundle: Bundle) -> None:
    def make_engine(bundle: Bundle) -> OnnxEngine:
        return OnnxEngine(bundle.manifest.graphs, bundle.files, "cpu")

    size = 4 * digits_bundle.manifest.latent_size
    limits = Limits(64, 4096, 4096, engine_threads=1, engine_timeout=30, max_answer=2000 * size)
    model = Model(digits_bundle, make_engine, limits)
    x = digits_bundle.golden["elbo"]["x"][:2]
    with pytest.raises(TooLargeError, match=f"query.num_draws: 2 rows × {1002 * size:,} bytes"):
        asyncio.run(model.encode(x, 1000))
    many = np.repeat(x, 2000, axis=0)
    with pytest.raises(TooLargeError, match=f"query.explain: 4,000 rows × {8 * 64 + 2 * size:,} bytes"):
        asyncio.run(asyncio.wait_for(model.elbo(many, ElboQuery(num_draws=1, explain=True)), 10))


def test_a_body_that_says_it_is_too_large(small: httpx.Client, x: Array) -> None:
    body = json.dumps({"instances": x.tolist()}).encode().ljust(3001)
    assert_problem(small.post("/elbo", content=body), 413, "3,001 bytes; at most 3,000 are read", "body")
    assert small.post("/elbo", content=body[:3000]).status_code == 200


def test_a_body_that_turns_out_too_large(small: httpx.Client, x: Array) -> None:
    body = json.dumps({"instances": x.tolist()}).encode().ljust(3001)

    def chunks(length: int) -> Iterator[bytes]:
        yield from (body[i : min(i + 100, length)] for i in range(0, length, 100))

    assert_problem(small.post("/elbo", content=chunks(3001)), 413, "more than 3,000 bytes", "body")
    assert small.post("/elbo", content=chunks(3000)).status_code == 200


def test_an_overloaded_service_says_when_to_come_back(serve: Serve, x: Array) -> None:
    full = np.repeat(x[:1], 64, axis=0)  # With 256 draws, all that may wait at once.
    with serve("--engine-threads", "1", "--max-queue", "16384") as client, ThreadPoolExecutor(4) as pool:
        requests = [pool.submit(post, client, "/elbo", full, binary=True, num_draws=256) for _ in range(4)]
        answers = [request.result() for request in requests]
        assert {answer.status_code for answer in answers} == {200, 429}
        for answer in answers:
            if answer.status_code == 429:
                assert_problem(answer, 429, "16,384 row-draws are queued, 16,384 at most", None)
                assert int(answer.headers["Retry-After"]) >= 1
        assert post(client, "/elbo", x).status_code == 200


@pytest.mark.parametrize(
    "path", ["/elbo", "/elbo?num_draws=1", "/encode", "/decode", "/v2/models/digits/infer", "/models/digits/elbo"]
)
def test_what_there_is_no_room_for_is_refused_before_it_is_read(full: httpx.Client, path: str) -> None:
    answer = full.post(path, content=b"no JSON", headers={"Content-Type": "application/json"})
    assert (answer.status_code, int(answer.headers["Retry-After"]) >= 1) == (429, True)
    assert "connection" not in answer.headers


def test_there_is_room_for_rows_of_fewer_draws(almost_full: httpx.Client, x: Array) -> None:
    headers = {"Content-Type": "application/json"}
    assert almost_full.post("/elbo", content=b"no JSON", headers=headers).status_code == 429
    assert almost_full.post("/elbo?num_draws=15", content=b"no JSON", headers=headers).status_code == 400
    assert post(almost_full, "/encode", np.repeat(x[:1], 16, axis=0)).status_code == 429
    assert almost_full.get("/sample", params={"n": 16}).status_code == 429


def test_requests_of_other_sizes_are_served_beside_a_full_queue(serve: Serve, x: Array) -> None:
    """The largest fill the queue for seconds, which leaves its room to small ones."""
    largest = np.repeat(x[:1], 64, axis=0)
    with serve("--engine-threads", "1") as client, ThreadPoolExecutor(2) as pool:
        good = post(client, "/elbo", x).content
        flood = [pool.submit(post, client, "/elbo", largest, binary=True, num_draws=4096) for _ in range(2)]
        wait_until(lambda: any(request.done() for request in flood), 30)  # The second is refused.
        assert [post(client, "/elbo", x).content for _ in range(20)] == [good] * 20
        assert not all(request.done() for request in flood)
        assert {request.result().status_code for request in flood} == {200, 429}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, x: Array) -> Iterator[httpx.Client]:
    """A server whose queue is full."""
    with filled(tmp_path_factory.mktemp("full"), x, 64) as client:
        yield client


@pytest.fixture
def almost_full(tmp_path: Path, x: Array) -> Iterator[httpx.Client]:
    """A server whose queue has room for 15 row-draws."""
    with filled(tmp_path, x, 64 + 15) as client:
        yield client


@contextmanager
def filled(tmp_path: Path, x: Array, max_queue: int) -> Iterator[httpx.Client]:
    """A server that has admitted eight requests of eight row-draws, and whose engine hangs."""
    fault, body = tmp_path / "fault", npy(np.repeat(x[:1], 8, axis=0))
    head = b"POST /encode HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-npy\r\nContent-Length: %d\r\n\r\n"
    options = ("--engine-threads", "1", "--max-queue", str(max_queue), "--engine-timeout", "600")
    fault.write_text("")
    program = ("tests.service.faulty_server", str(fault))
    with run_server(*options, log=tmp_path / "log", program=program) as client, ExitStack() as held:
        held.callback(os.kill, process_of(client), signal.SIGKILL)  # At its end it would wait for the engine.
        fault.write_text("hang 1")
        for _ in range(8):
            sender = held.enter_context(socket.create_connection(("127.0.0.1", client.base_url.port or 0)))
            sender.sendall(head % len(body) + body)
        wait_until(lambda: client.post(f"/elbo?num_draws={max_queue - 63}", content=b"no JSON").status_code == 429, 30)
        yield client


def test_a_request_that_takes_too_long_is_given_up(serve: Serve, x: Array) -> None:
    with serve("--engine-threads", "1", "--timeout", "0.1") as client:
        answer = post(client, "/elbo", np.repeat(x[:1], 64, axis=0), binary=True, num_draws=4096)
        assert_problem(answer, 504, "not answered within 0.1 seconds", None)
        assert client.get("/health/live").status_code == 200


def test_a_request_may_set_its_own_limit(serve: Serve, x: Array) -> None:
    large = np.repeat(x[:1], 64, axis=0)
    with serve("--engine-threads", "1", "--timeout", "20") as client:
        client.get("/sample", params={"timeout": 5}).raise_for_status()
        assert post(client, "/elbo", x, timeout=5).content == post(client, "/elbo", x).content
        started = time.monotonic()
        answer = post(client, "/elbo", large, binary=True, num_draws=4096, refine=0, timeout=0.05)
        assert_problem(answer, 504, r"not answered within 0\.05 seconds", None)
        assert post(client, "/elbo", x).status_code == 200  # Nothing of the other is in its way.
        assert time.monotonic() - started < 10

        def slowly() -> Iterator[bytes]:
            yield b'{"instances": '
            time.sleep(1)
            yield b"[]}"

        answer = client.post("/elbo", params={"timeout": 0.2}, content=slowly())
        assert_problem(answer, 504, r"not answered within 0\.2 seconds", None)


def test_the_limit_of_the_service_is_the_longest(serve: Serve, x: Array) -> None:
    with serve("--engine-threads", "1", "--timeout", "0.1") as client:
        answer = post(client, "/elbo", np.repeat(x[:1], 64, axis=0), binary=True, num_draws=4096, timeout=60)
        assert_problem(answer, 504, r"not answered within 0\.1 seconds", None)
