"""`lowerbound.Client` against real servers: many rows, and services that are busy, gone or other ones."""

import asyncio
import contextlib
import datetime as dt
import os
import re
import signal
import socket
import threading
import time
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from lowerbound import (
    AsyncClient,
    Client,
    DeadlineError,
    InvalidError,
    NoDiscoveryWarning,
    NotFoundError,
    OverloadedError,
    ServiceError,
    TooLargeError,
    UnauthorizedError,
    UnreachableError,
)

from service.bundle import Array
from service.scoring.conformal import discoveries
from tests.conftest import Serve, samples
from tests.service.client.conftest import RECORDS


def test_many_rows_are_cut_and_their_places_are_the_callers(people: str) -> None:
    records = [{"age": float(i), "colour": "red"} for i in range(1000)]
    records[777] |= {"age": "old"}
    with Client(people, model="people", batch_rows=64, concurrency=3) as client:
        with pytest.raises(InvalidError) as caught:
            client.score(records)
        assert caught.value.location == "instances[777].age"
        assert caught.value.status == 422
        assert caught.value.request_id
        marked = client.score(records, on_error="mark")
        good = client.score([record for record in records if record["age"] != "old"])
    assert marked[777]["problem"].startswith("instances[777].age:")
    assert [{**row, "problem": None} for row in good] == [row for row in marked if row["problem"] is None]


def test_rows_that_the_service_finds_too_many_are_cut_again(serve: Serve, x: Array) -> None:
    pixels = np.concatenate([x] * 40)
    with serve("--max-queue", "640") as server, Client(str(server.base_url), concurrency=2) as client:

        def refused() -> float:
            counted = samples(server.get("/metrics").text)
            return sum(n for key, n in counted.items() if key[0] == "lowerbound_http_requests_total" and "413" in key)

        answer = client.score(pixels, num_draws=16)
        before = refused()
        assert before > 0
        client.score(pixels, num_draws=16)
        assert refused() == before
        again = client.score(x, num_draws=16)
        with pytest.raises(TooLargeError, match="draws"):
            client.score(x, num_draws=1000)
    assert answer["elbo"].tobytes() == np.concatenate([again["elbo"]] * 40).tobytes()


def test_rows_that_take_the_service_too_long_are_cut_again(serve: Serve, x: Array) -> None:
    pixels = np.concatenate([x] * 120)
    with serve("--timeout", "1") as server, Client(str(server.base_url), concurrency=1) as client:
        answer = client.score(pixels, num_draws=512)
        counted = samples(server.get("/metrics").text)
    assert len(answer["elbo"]) == len(pixels)
    assert any("504" in labels for labels in counted)


def test_discoveries_look_at_all_rows(serve: Serve, x: Array) -> None:
    pixels = np.random.default_rng(5).integers(0, 17, (300, 8, 8), dtype=np.uint8)
    with serve() as server, Client(str(server.base_url), batch_rows=50) as client:
        answer = client.score(pixels, fdr=0.2)
    np.testing.assert_array_equal(answer["discovery"], discoveries(answer["p_value"], 0.2))


def test_the_client_says_why_no_row_is_called(people: str) -> None:
    usual = [{"age": i / 60, "colour": "red"} for i in range(60)]
    with Client(people, model="people", batch_rows=25) as client:
        with pytest.warns(NoDiscoveryWarning) as said:
            answer = client.score(usual, fdr=0.01)
        with pytest.warns(NoDiscoveryWarning, match="at fdr=0.005 no row can be called: it takes a larger fdr"):
            client.score(usual, fdr=0.005)
        with pytest.warns(NoDiscoveryWarning, match="none has a p-value"):
            client.score([{"age": 1.0, "colour": None}], fdr=0.1, on_error="mark")
    assert not any(row["discovery"] for row in answer)
    assert re.fullmatch(
        "no row is called anomalous: with 99 held-out rows no p-value is below 0.01; at fdr=0.01 and 60 rows at least "
        r"60 must be that strange, and \d+ are",
        str(said[0].message),
    )


def test_a_busy_service_is_asked_again(serve: Serve, x: Array) -> None:
    pixels = np.concatenate([x] * 100)
    arguments = ("--max-queue", "4096", "--engine-threads", "1")
    with serve(*arguments) as server:
        url = str(server.base_url)
        with Client(url, batch_rows=100, concurrency=16) as client:
            answer = client.score(pixels, num_draws=32)
        refused = httpx.get(f"{url}/metrics").text
        with Client(url, batch_rows=100, concurrency=16, patience=0) as client, pytest.raises(OverloadedError):
            client.score(pixels, num_draws=32)
    assert len(answer["elbo"]) == 500
    assert 'reason="overloaded"' in refused


@pytest.mark.parametrize(("retry_after", "patience", "error"), [("0", 0.9, NotFoundError), ("9", 5, OverloadedError)])
def test_a_busy_service_says_when_to_ask_again(retry_after: str, patience: float, error: type[Exception]) -> None:
    statuses = iter((429, 404))

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(next(statuses))
            self.send_header("Retry-After", retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{server.server_port}", patience=patience) as client, pytest.raises(error):
            client.sample()
        server.shutdown()


def test_a_connection_that_breaks_is_made_once_more(people: str) -> None:
    with Breaking(people, times=1) as url, Client(url, model="people") as client:
        assert len(client.score(RECORDS)) == 4
    with (
        Breaking(people, times=2) as url,
        Client(url, model="people") as client,
        pytest.raises(UnreachableError, match=r"127\.0\.0\.1"),
    ):
        client.score(RECORDS)


def test_errors_have_kinds(people: str, serve: Serve, tmp_path: Path) -> None:
    with Client(people, model="nobody") as client, pytest.raises(NotFoundError, match="nobody"):
        client.score(RECORDS)
    with Client(people, model="people", timeout=1e-6) as client, pytest.raises(DeadlineError):
        client.score(RECORDS)
    with Client(people, model="people") as client:
        with pytest.raises(TypeError, match="of type int"):
            client.score(3)
        with pytest.raises(InvalidError, match="age"):
            client.score(pd.DataFrame({"age": [1.0, "old"], "colour": ["red", "red"]}, dtype=object))
        with pytest.raises(InvalidError, match="not JSON serializable"):
            client.score([{"age": object(), "colour": "red"}])
        with pytest.raises(InvalidError, match="too large"):
            client.score(pd.DataFrame({"age": [2**64 - 1, None], "colour": ["red", "red"]}, dtype=object))
        odd = [{"age": Decimal("1.5"), "colour": "red", "day": dt.date(2026, 1, 1)}]
        assert client.score(odd)[0]["elbo"] == client.score(RECORDS[:1])[0]["elbo"]
    keys = tmp_path / "keys"
    keys.write_text("sixteen-letters-or-more\n")
    with serve("--api-keys-file", str(keys)) as server:
        url = str(server.base_url)
        with Client(url) as client, pytest.raises(UnauthorizedError):
            client.model()
        with Client(url, key="sixteen-letters-or-more") as client:
            assert client.sample(1)["instances"].shape == (1, 8, 8)


def stream(rows: int) -> bytes:
    table, sink = pa.table({"elbo": np.zeros(rows)}), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("status", "kind", "body", "said"),
    [
        (200, "text/html; charset=utf-8", b"<html>Sign in</html>", "answers text/html where Arrow was asked for; is a"),
        (200, "application/json", b"", "answers application/json where Arrow was asked for"),
        (200, "application/vnd.apache.arrow.stream", stream(3)[:-20], "where Arrow was asked for"),
        (200, "application/vnd.apache.arrow.stream", stream(3), "answers 3 rows to 4; is a Lowerbound service there?"),
        (502, "application/json", b"[" * 10**5, "[[["),
        (502, "application/json", b'{"detail": null, "location": 5}', "5: None"),
    ],
)
def test_what_answers_in_place_of_the_service_is_named(status: int, kind: str, body: bytes, said: str) -> None:
    with Answering(status, kind, body) as url, Client(url) as client:
        with pytest.raises(ServiceError, match=re.escape(said)) as caught:
            client.score(RECORDS)
        assert caught.value.status == status
        with pytest.raises(ServiceError, match="no JSON" if status == 200 else re.escape(said)):
            client.model()


def test_no_answer_trickles_in_without_end() -> None:
    with (
        Answering(200, "application/json", b"x" * 1000, pause=0.05) as url,
        Client(url, timeout=0.2) as client,
        pytest.raises(DeadlineError, match=r"no answer within 0\.2 seconds"),
    ):
        client.score(RECORDS)


class Answering:
    """A server that gives each request the same answer, byte by byte where there is a pause."""

    def __init__(self, status: int, kind: str, body: bytes, pause: float = 0) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    for place in range(0, len(body), 1 if pause else len(body) or 1):
                        self.wfile.write(body[place : place + 1] if pause else body)
                        time.sleep(pause)

            do_POST = do_GET  # noqa: N815 - of the base class

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - of the base class
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_has_a_client_of_its_own(client: Client, expected: dict[str, list[float]]) -> None:
    """As in multiprocessing, or Celery: the thread and the connections stay with the parent."""
    client.score(RECORDS)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # It ends where it would wait for ever.
        status = 1
        try:
            status = int([row["elbo"] for row in client.score(RECORDS)] != expected["elbo"])
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert [row["elbo"] for row in client.score(RECORDS)] == expected["elbo"]


def test_asyncio(people: str, expected: dict[str, list[float]]) -> None:
    async def both() -> list[Any]:
        async with AsyncClient(people, model="people") as client:
            return await asyncio.gather(client.score(pl.DataFrame(RECORDS)), client.score(RECORDS))

    frame, records = asyncio.run(both())
    assert frame["elbo"].to_list() == [row["elbo"] for row in records] == expected["elbo"]


class Breaking:
    """A proxy that closes its first connections as soon as a request has begun, and then lets all pass."""

    def __init__(self, url: str, times: int) -> None:
        self._target = httpx.URL(url)
        self._times = times
        self._listener = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> str:
        threading.Thread(target=self._accept, daemon=True).start()
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *error: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                inward, _ = self._listener.accept()
            except OSError:
                return
            if self._times:
                self._times -= 1
                inward.recv(1)
                inward.close()
                continue
            outward = socket.create_connection((self._target.host, self._target.port or 80))
            for source, sink in ((inward, outward), (outward, inward)):
                threading.Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with source, sink:
        while data := source.recv(65536):
            sink.sendall(data)
