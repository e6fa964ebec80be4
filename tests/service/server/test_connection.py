"""Connections, over plain sockets: HTTP/1.1 to the letter, and refusals of requests that break it."""

import contextlib
import socket
import time
from functools import partial
from pathlib import Path

import numpy as np
import orjson
import pytest

from service.server.crowd import UNWANTED
from tests.conftest import run_server, wait_until
from tests.service.sockets import BODY, LIVE, ROW, Client, port_of, post, work

CHUNKED = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
"""The head of a request whose body comes in chunks."""

TOO_LARGE = post(b"", b"Connection: close").replace(b"Content-Length: 0", b"Content-Length: 999999999")
"""The head of a request whose body is refused, and its connection closed."""

_IN_BUFFERS = 2**26
"""Bytes that the sockets of a connection hold at most, beside what the service reads."""

until = partial(wait_until, seconds=10)


# HTTP/1.1


def test_a_connection_is_kept(patient: int) -> None:
    with Client(patient) as client:
        for _ in range(3):
            client.send(post(BODY))
            status, headers, body = client.answer()
            assert status == 200
            assert "connection" not in headers
            assert "date" in headers
            assert orjson.loads(body).keys() >= {"elbo", "p_value"}


@pytest.mark.parametrize("request_", [LIVE.replace(b"1.1", b"1.0"), LIVE[:-2] + b"Connection: close\r\n\r\n"])
def test_a_connection_is_closed_where_asked(patient: int, request_: bytes) -> None:
    with Client(patient) as client:
        client.send(request_)
        status, headers, _ = client.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert client.closed()


def test_requests_in_a_row_are_answered_in_order(patient: int) -> None:
    rows = np.random.default_rng(0).integers(0, 17, (40, 1, 8, 8))
    bodies = [orjson.dumps({"instances": row.tolist()}) for row in rows]
    with Client(patient) as client:
        expected = []
        for body in bodies:
            client.send(post(body))
            expected.append(orjson.loads(client.answer()[2])["elbo"])
        client.send(b"".join(map(post, bodies)))  # The slowest first.
        assert [orjson.loads(client.answer()[2])["elbo"] for _ in bodies] == expected
        client.send(post(BODY, path=b"/elbo?num_draws=4096"), LIVE)
        assert [client.answer()[0], client.answer()[2]] == [200, b'{"status":"live"}']


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_a_request_may_come_in_pieces(patient: int, size: int) -> None:
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (BODY[:9], BODY[9:11], BODY[11:]))
    head = CHUNKED
    whole = head + chunked + b"0\r\nX-Request-ID: late\r\n\r\n" + post(BODY)
    with Client(patient) as client:
        for start in range(0, len(whole), size):
            client.send(whole[start : start + size])
        first, second = client.answer(), client.answer()
        assert first[0] == second[0] == 200
        assert first[2] == second[2]
        assert first[1]["x-request-id"] != "late"


def test_a_large_body_is_read_whole(patient: int) -> None:
    rows = 5000  # Two megabytes: more than is held at once.
    with Client(patient) as client:
        client.send(post(orjson.dumps({"instances": [ROW] * rows})), LIVE)
        status, _, body = client.answer()
        assert (status, len(orjson.loads(body)["elbo"])) == (200, rows)
        assert client.answer()[0] == 200


def test_a_body_that_nobody_reads_does_no_harm(patient: int) -> None:
    with Client(patient) as client:
        client.send(
            b"GET /sample?n=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\n\r\n", b"\0" * 3_000_000, LIVE
        )
        assert client.answer()[0] == 200
        assert client.answer()[2] == b'{"status":"live"}'


def test_a_refused_client_may_send_its_body_to_the_end(patient: int) -> None:
    """Most clients read no answer before they have sent the whole body, and a reset would lose it."""
    with Client(patient) as client:
        client.send(TOO_LARGE)
        for _ in range(6):
            client.send(bytes(2**20))
            time.sleep(0.5)
        status, headers, _ = client.answer()
        assert (status, headers["connection"]) == (413, "close")


def test_a_refused_client_may_not_send_for_ever(impatient: int) -> None:
    with Client(impatient) as client:
        client.send(TOO_LARGE)
        assert client.answer()[0] == 413
        started = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(100):
                client.send(bytes(2**10))
                time.sleep(0.1)
        assert time.monotonic() - started < 8


def test_a_client_may_ask_before_it_sends(patient: int) -> None:
    head = post(BODY, b"Expect: 100-continue").removesuffix(BODY)
    with Client(patient) as client:
        client.send(head)
        assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
        client.send(BODY)
        assert client.answer()[0] == 200
        client.send(head.replace(b"/elbo", b"/nothing"))
        status, headers, _ = client.answer()
        assert (status, headers["connection"]) == (404, "close")
        assert client.closed()


def test_head_has_no_body(patient: int) -> None:
    with Client(patient) as client:
        client.send(b"HEAD /elbo HTTP/1.1\r\nHost: localhost\r\n\r\n" + LIVE)
        assert b"HTTP/1.1 405" in client.until(b"\r\n\r\n")
        assert client.answer()[2] == b'{"status":"live"}'


@pytest.mark.parametrize("target", [b"/health/liv%65", b"http://localhost/health/live", b"/health/live?x=%zz"])
def test_targets_have_several_forms(patient: int, target: bytes) -> None:
    with Client(patient) as client:
        client.send(LIVE.replace(b"/health/live", target))
        assert client.answer()[0] == 200


@pytest.mark.parametrize(
    ("host", "named", "status"), [(b"localhost", b"evil.example", 403), (b"evil", b"[::1]:1", 200)]
)
def test_an_absolute_target_takes_the_place_of_host(patient: int, host: bytes, named: bytes, status: int) -> None:
    """RFC 9112, section 3.2.2: a page that may not be answered is not, whatever its `Host` says."""
    with Client(patient) as client:
        client.send(b"GET http://%b/health/live HTTP/1.1\r\nHost: %b\r\n\r\n" % (named, host))
        assert client.answer()[0] == status


@pytest.mark.parametrize("size", [1, 10_000])
def test_an_upgrade_is_ignored(patient: int, size: int) -> None:
    """Java's HttpClient asks for HTTP/2 in its first request, whatever that is."""
    upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    head = [
        b"POST /elbo HTTP/1.1",
        b"Host: localhost",
        b"Content-Type: application/json",
        b"Transfer-Encoding: chunked",
        *upgrade,
        b"",
        b"",
    ]
    whole = post(BODY, *upgrade) + LIVE[:-2] + b"\r\n".join([*upgrade, b"", b""]) + b"\r\n".join(head) + chunked + LIVE
    with Client(patient) as client:
        for start in range(0, len(whole), size):
            client.send(whole[start : start + size])
        answers = [client.answer() for _ in range(4)]
        assert [status for status, _, _ in answers] == [200] * 4
        assert answers[0][2] == answers[2][2]
        assert answers[1][2] == answers[3][2] == b'{"status":"live"}'
        assert all("connection" not in headers for _, headers, _ in answers)


# Shapes that make two servers see two requests where there is one


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", id="length and chunked"),
        pytest.param(b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", id="chunked and length"),
        pytest.param(b"Content-Length: 4\r\nContent-Length: 5\r\n", id="two lengths"),
        pytest.param(b"Content-Length: 4, 5\r\n", id="two lengths in one"),
        pytest.param(b"Content-Length: +4\r\n", id="signed length"),
        pytest.param(b"Content-Length: 4 4\r\n", id="spaced length"),
        pytest.param(b"Content-Length: 99999999999999999999\r\n", id="length beyond 64 bits"),
        pytest.param(b"Content-Length : 4\r\n", id="space before the colon"),
        pytest.param(b"Content-Length: 4\r\n X-Folded: yes\r\n", id="folded line"),
        pytest.param(b" Content-Length: 4\r\n", id="folded first line"),
        pytest.param(b"X: y\nContent-Length: 4\r\n", id="bare line feed"),
        pytest.param(b"X: y\rContent-Length: 4\r\n", id="bare carriage return"),
        pytest.param(b"X: a\0b\r\n", id="null"),
        pytest.param(b"Host: y\r\n", id="two hosts"),
        pytest.param(b"Content-Type: text/csv\r\nContent-Type: application/json\r\n", id="two types"),
        pytest.param(b"Content-Encoding: gzip\r\nContent-Encoding: deflate\r\n", id="two encodings"),
        pytest.param(b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", id="two keys"),
        pytest.param(b"Host: x y\r\n", id="no host"),
        pytest.param(b"Transfer-Encoding: chunked, identity\r\n", id="chunked is not the last coding"),
        pytest.param(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", id="two codings"),
        pytest.param(b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", id="a coding before chunked"),
        pytest.param(b"Transfer-Encoding: \x0bchunked\r\n", id="control character in the coding"),
        pytest.param(b"Content_Length\r\n", id="no colon"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(patient: int, head: bytes) -> None:
    with Client(patient) as client:
        client.send(b"POST /health/live HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n0\r\n\r\n" + LIVE)
        status, headers, body = client.answer()
        assert (status, headers["connection"]) == (400, "close")
        assert headers["content-type"] == "application/problem+json"
        assert orjson.loads(body).keys() == {"type", "title", "status", "detail"}
        assert client.closed()


@pytest.mark.parametrize(
    "chunks",
    [b"4\n0123\r\n", b"4;\x00\r\n0123\r\n", b"-1\r\n", b"0x4\r\n0123\r\n", b"4\r\n01234\r\n", b"4 \r\n0123\r\n"],
)
def test_chunks_are_read_strictly(patient: int, chunks: bytes) -> None:
    with Client(patient) as client:
        client.send(CHUNKED + chunks + b"0\r\n\r\n" + LIVE)
        assert client.answer()[0] == 400
        assert client.closed()


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
)
def test_what_is_not_http_is_refused(patient: int, garbage: bytes) -> None:
    with Client(patient) as client:
        client.send(garbage)
        assert client.answer()[0] == 400
        assert client.closed()


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET /health/live HTTP/1.1\r\n\r\n", 400),
        (LIVE.replace(b"1.1", b"2.0"), 505),
        (LIVE.replace(b"1.1", b"0.9"), 505),
        (b"POST /elbo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST /elbo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
        (
            b"POST /elbo HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n", 501),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (LIVE[:-2] + b"X: " + b"y" * 70_000 + b"\r\n\r\n", 431),
    ],
    ids=lambda value: str(value)[:40],
)
def test_rfc_9112_names_the_status_of_a_refusal(patient: int, request_: bytes, expected: int) -> None:
    with Client(patient) as client:
        client.send(request_)
        status, headers, _ = client.answer()
        assert (status, headers["connection"]) == (expected, "close")
        assert client.closed()


def test_http_1_0_is_not_told_to_continue(patient: int) -> None:
    request = post(BODY, b"Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
    with Client(patient) as client:
        client.send(request.removesuffix(BODY))
        time.sleep(0.3)
        client.send(BODY)
        assert client.answer()[0] == 200


def test_a_half_closed_client_is_answered(patient: int) -> None:
    with Client(patient) as client:
        client.send(work(100))  # The answer must not be on its way before the close arrives.
        client.socket.shutdown(socket.SHUT_WR)
        status, headers, _ = client.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert client.closed(5)


@pytest.mark.parametrize(
    ("path", "media_type"), [(b"/elbo", "application/problem+json"), (b"/v2/models/digits/infer", "application/json")]
)
@pytest.mark.parametrize(
    ("request_", "expected"),
    [(post(BODY, b"X-Request-ID: mine", b"Host: y"), 400), (post(BODY, b"X-Request-ID: mine")[:-5], 408)],
)
def test_a_refusal_is_an_error_like_all_others(
    impatient: int, path: bytes, media_type: str, request_: bytes, expected: int
) -> None:
    with Client(impatient) as client:
        client.send(request_.replace(b"/elbo", path))
        status, headers, body = client.answer()
        assert (status, headers["x-request-id"], headers["content-type"]) == (expected, "mine", media_type)
        assert "date" in headers
        fields = {"error"} if path.startswith(b"/v2") else {"type", "title", "status", "detail"}
        assert orjson.loads(body).keys() == fields
        assert client.closed()


def test_garbage_has_an_answer_of_its_own(patient: int) -> None:
    with Client(patient) as client:
        client.send(post(BODY) + b"GARBAGE\r\n\r\n")
        assert [client.answer()[0] for _ in range(2)] == [200, 400]
        assert client.closed()


def test_a_body_that_never_completes_is_logged_in_one_line_at_most(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with run_server("--read-timeout", "0.5", "--access-log", log=log) as server, Client(port_of(server)) as client:
        client.send(post(BODY)[:-1])
        assert client.answer()[0] == 408
        client.closed()
        text = log.read_text()
        assert "Traceback" not in text
        assert text.count("/elbo") == text.count("status=408") == 1


# Sizes


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"".join(b"X-%d: y\r\n" % i for i in range(102)), id="many"),
        pytest.param(b"X: " + b"y" * 300_000, id="long"),
        pytest.param(b"X" * 300_000, id="long name"),
    ],
)
def test_heads_are_limited(patient: int, head: bytes) -> None:
    with Client(patient) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.send(b"GET /health/live HTTP/1.1\r\n" + head)
        assert client.answer()[0] == 431


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (LIVE[:-2] + b"X: " + b"y" * 70_000 + b"\r\n\r\n", 431),
    ],
)
def test_a_long_head_behind_another_request_is_refused(patient: int, behind: bytes, expected: int) -> None:
    """Both are read at once."""
    with Client(patient) as client:
        client.send(LIVE + behind)
        assert [client.answer()[0] for _ in range(2)] == [200, expected]


def test_a_hundred_fields_are_read(patient: int) -> None:
    with Client(patient) as client:
        client.send(LIVE[:-2] + b"".join(b"X-%d: y\r\n" % i for i in range(99)) + b"\r\n")
        assert client.answer()[0] == 200


@pytest.mark.parametrize("frame", [b"1;" + b"x" * 300_000, b"0\r\nX: " + b"y" * 300_000])
def test_what_surrounds_chunks_is_limited(patient: int, frame: bytes) -> None:
    with Client(patient) as client:
        client.send(CHUNKED)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.send(frame)
        assert client.answer()[0] == 431


@pytest.mark.parametrize(
    "refused",
    [
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"POST /elbo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000000\r\n\r\n",
    ],
    ids=["head", "body"],
)
def test_what_no_request_wants_is_read_no_faster_than_the_rest(patient: int, refused: bytes) -> None:
    piece = bytes(2**20)
    with Client(patient) as client:
        client.send(refused)
        sent, began = 0, time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < began + 1:
                sent += client.socket.send(piece)
        assert 2**22 < sent < UNWANTED * (time.monotonic() - began) + _IN_BUFFERS
