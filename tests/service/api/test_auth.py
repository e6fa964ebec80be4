"""Without a key there are health and the explorer's files; keys are never shown; browsers get what is set."""

import base64
import gc
import hashlib
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest

from service.api.auth import SHORTEST, ApiKeyMiddleware, is_loopback, read_keys
from service.api.problem_details import PROBLEM_MEDIA_TYPE
from service.errors import KeysError
from tests.conftest import run_server
from tests.service.conftest import Refused

OLD, NEW, THIRD = "old-key-0123456789abcdef", "new/key+0123456789abcdef==", "third.key_0123456789~abcdef"
PAGE = "https://page.example"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access") / "log"


@pytest.fixture(scope="module")
def closed(log: Path) -> Iterator[httpx.Client]:
    """A client, without a key, of a server with three: two in a file, one in the environment."""
    file = log.with_name("keys")
    file.write_text(f"# who has which\n{OLD}   # until spring\n\n  {NEW}\n")
    options = ("--log-level", "debug", "--api-keys-file", str(file), "--cors-origins", f"{PAGE},https://other.example")
    with run_server(*options, log=log, LOWERBOUND_API_KEYS=THIRD) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def page(closed: httpx.Client) -> dict[str, Any]:
    document: dict[str, Any] = closed.get("/openapi.json", headers=bearer(OLD)).raise_for_status().json()
    return document


@pytest.fixture(scope="module")
def routes(page: dict[str, Any]) -> list[tuple[str, str]]:
    """Every route as method and path, of the digits, also the routes that the OpenAPI page leaves out."""
    values = {"name": "digits", "version": "1"}
    on_page = [(method.upper(), path.format(**values)) for path, methods in page["paths"].items() for method in methods]
    assert len(on_page) > 25
    return [*on_page, ("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/nowhere"), ("POST", "/v2/nowhere")]


def is_open(path: str) -> bool:
    return path in {"/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"}


def test_no_route_answers_without_a_key(closed: httpx.Client, routes: list[tuple[str, str]]) -> None:
    for method, path in routes:
        answer = closed.request(method, path)
        if is_open(path):
            assert answer.is_success, path
            continue
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.headers["X-Request-ID"]
        if path.startswith("/v2"):
            assert answer.json() == {"error": "header.Authorization: bring one of the service's keys, as `Bearer KEY`"}
        else:
            assert answer.headers["Content-Type"] == PROBLEM_MEDIA_TYPE
            assert (answer.json()["title"], answer.json()["location"]) == ("Unauthorized", "header.Authorization")


@pytest.mark.parametrize("key", [OLD, NEW, THIRD])
def test_every_route_answers_to_every_key(closed: httpx.Client, routes: list[tuple[str, str]], key: str) -> None:
    for method, path in routes:
        answer = closed.request(method, path, headers=bearer(key))
        if method == "POST" or "nowhere" in path:  # Let in, and told what else is wrong.
            assert answer.status_code in {400, 404, 422}, path
        else:
            assert answer.is_success, path


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer =",
        OLD,
        f"Basic {OLD}",
        f"Token {OLD}",
        f"Bearer{OLD}",
        f"Bearer {OLD[:-1]}",
        f"Bearer {OLD}0",
        f"Bearer {OLD.upper()}",
        f"Bearer {OLD} {NEW}",
        f"Bearer {OLD},{NEW}",
        f"Bearer x, Bearer {OLD}",
        "Bearer " + "0" * 10_000,
        b"Bearer \xff\xfe",
    ],
)
@pytest.mark.parametrize("path", ["/model", "/elbo", "/models/digits/elbo", "/v2/models/digits/infer"])
def test_no_other_credentials_are_taken(closed: httpx.Client, header: str | bytes, path: str) -> None:
    method = "GET" if path == "/model" else "POST"
    answer = closed.request(method, path, headers={"Authorization": header}, json={})  # type: ignore[dict-item]
    assert answer.status_code == 401


def test_the_scheme_is_written_in_any_case(closed: httpx.Client) -> None:
    for scheme in ("bearer ", "BEARER ", "Bearer   "):
        assert closed.get("/models", headers={"Authorization": scheme + OLD}).is_success


@pytest.mark.parametrize(
    "path",
    [
        *("/health", "/health/../model", "//model", "/health/%2e%2e/model", "/model?/health/live"),
        *("/explorer", "/explorer/../model", "/explorer/%2e%2e/model", "/explorer/../settings.py", "//", "/./model"),
    ],
)
def test_no_path_goes_around(closed: httpx.Client, path: str) -> None:
    with socket.create_connection((closed.base_url.host, closed.base_url.port), timeout=30) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        status = connection.recv(4096).split(b" ")[1]
    assert status in {b"401", b"404"}  # 404 only below these, where there is nothing else.
    assert status == b"401" or path.startswith(("/health/", "/explorer/"))


def test_the_body_is_not_waited_for(closed: httpx.Client) -> None:
    with socket.create_connection((closed.base_url.host, closed.base_url.port), timeout=30) as connection:
        start = time.monotonic()
        connection.sendall(b"POST /elbo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 401")
    assert time.monotonic() - start < 10


def test_the_page_asks_for_the_key(page: dict[str, Any], digits: httpx.Client) -> None:
    assert page["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in page["paths"].items():
        for operation in operations.values():
            assert operation["security"] == ([] if is_open(path) else [{"key": []}])
            if not is_open(path):
                assert {"401", "default"} & operation["responses"].keys()
    open_page = digits.get("/openapi.json").json()
    assert "securitySchemes" not in open_page["components"]
    assert not any("security" in operation for methods in open_page["paths"].values() for operation in methods.values())


def test_no_key_is_ever_shown(closed: httpx.Client, log: Path, routes: list[tuple[str, str]]) -> None:
    """Neither in any answer nor in the log at its most talkative. Runs after the tests above, which used the keys."""
    texts = [closed.request(method, path, headers=bearer(OLD)).text for method, path in routes]
    logged = log.read_text()
    assert "serving digits 1 on" in logged
    for text in [*texts, logged]:
        for key in (OLD, NEW, THIRD):
            assert key not in text


# The keys' file and variable


def test_keys_are_kept_as_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text(f"#{NEW}\n\t{OLD}\t#{NEW}\n{OLD}\n")
    assert {len(digest) for digest in read_keys(tmp_path / "keys")} == {32}
    assert len(read_keys(tmp_path / "keys")) == 1
    monkeypatch.setenv("LOWERBOUND_API_KEYS", f" {NEW}, {THIRD}\n{OLD},")
    assert len(read_keys(None)) == 3
    assert read_keys(tmp_path / "keys") == read_keys(None)
    monkeypatch.setenv("LOWERBOUND_API_KEYS", "x" * SHORTEST)
    assert len(read_keys(None)) == 1
    monkeypatch.setenv("LOWERBOUND_API_KEYS", "")
    assert read_keys(None) == frozenset()


@pytest.mark.parametrize(
    "key", ["short", "x" * (SHORTEST - 1), "a key with spaces in it", "clé-0123456789abcdef", "==" * 16]
)
def test_keys_that_are_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    (tmp_path / "keys").write_text(f"{OLD}\n{key}\n", encoding="utf-8")
    with pytest.raises(KeysError, match=r"keys, line 2: a key is at least 16 letters") as refusal:
        read_keys(tmp_path / "keys")
    assert key not in str(refusal.value)
    monkeypatch.setenv("LOWERBOUND_API_KEYS", f"{OLD},{key}")
    with pytest.raises(KeysError, match=r"LOWERBOUND_API_KEYS, key 2: ") as refusal:
        read_keys(None)
    assert key not in str(refusal.value)


def test_keys_without_end_are_refused() -> None:
    with pytest.raises(KeysError, match="/dev/zero: cannot be read: at most 4,194,304 bytes are read"):
        read_keys(Path("/dev/zero"))


@pytest.mark.parametrize("text", [None, "", "\n\n", f"# {OLD}\n"])
def test_a_file_without_a_key_opens_nothing(tmp_path: Path, refused: Refused, text: str | None) -> None:
    if text is not None:
        (tmp_path / "keys").write_text(text)
    done = refused("--api-keys-file", str(tmp_path / "keys"))
    assert done.returncode == 1
    said = "cannot be read: No such file" if text is None else "holds no key"
    assert re.fullmatch(rf"error: .*/keys: {said}.*\n", done.stderr)


def test_no_flag_takes_a_key(refused: Refused) -> None:
    assert refused("--api-keys", OLD).returncode != 0


# Timing


def calls(middleware: ApiKeyMiddleware, header: bytes) -> list[str]:
    """The calls that judge this header, in order: Python's functions and C's."""
    seen: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event in {"call", "c_call"}:
            seen.append(frame.f_code.co_name if event == "call" else argument.__qualname__)

    gc.disable()  # It may call what it finds at any moment.
    sys.setprofile(note)
    try:
        middleware._admits([(b"host", b"x"), (b"authorization", header)])
    finally:
        sys.setprofile(None)
        gc.enable()
    return seen[:-1]  # The last is that of `setprofile`.


def test_the_way_to_an_answer_does_not_depend_on_the_key(tmp_path: Path) -> None:
    """Right, wrong at the first character or at the last: the same calls, and each key compared."""

    async def app(*_: Any) -> None: ...

    (tmp_path / "keys").write_text(f"{OLD}\n{NEW}\n{THIRD}\n")
    middleware = ApiKeyMiddleware(app, read_keys(tmp_path / "keys"), app)
    ways = [
        calls(middleware, f"Bearer {key}".encode())
        for key in (OLD, NEW, THIRD, "~" + OLD[1:], OLD[:-1] + "~", OLD[:12], "", "0" * 100)
    ]
    assert ways[0].count("compare_digest") == 3
    assert ways[0].count("openssl_sha256") == 1
    assert all(way == ways[0] for way in ways)


# Who hears of it


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.7", False),
        ("models.example", False),
        ("", False),
    ],
)
def test_addresses_that_others_reach_are_known(host: str, *, loopback: bool) -> None:
    assert is_loopback(host) == loopback


@pytest.mark.parametrize(
    ("host", "key", "warned"), [("0.0.0.0", "", True), ("127.0.0.1", "", False), ("0.0.0.0", OLD, False)]
)
def test_an_open_service_that_others_reach_says_so(tmp_path: Path, host: str, key: str, *, warned: bool) -> None:
    with run_server("--host", host, log=tmp_path / "log", LOWERBOUND_API_KEYS=key):
        pass
    lines = re.findall(r"WARNING service: (.*)", (tmp_path / "log").read_text())
    assert lines == (
        ["listening on 0.0.0.0 without API keys: every client that reaches it may send requests"] if warned else []
    )


# Browsers


def preflight(client: httpx.Client, origin: str) -> httpx.Response:
    wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    return client.options("/elbo", headers={"Origin": origin} | wanted)


@pytest.mark.parametrize("origin", [PAGE, "https://other.example"])
def test_pages_of_named_origins_may_ask(closed: httpx.Client, origin: str) -> None:
    allowed = preflight(closed, origin)
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == origin
    assert "authorization" in allowed.headers["Access-Control-Allow-Headers"]
    for key in (OLD, "wrong"):  # A page can read the refusal, too.
        answer = closed.get("/models", headers={"Origin": origin} | bearer(key))
        assert answer.headers["Access-Control-Allow-Origin"] == origin
        assert answer.headers["Access-Control-Expose-Headers"] == "*"


@pytest.mark.parametrize("origin", ["https://evil.example", PAGE + ".evil.example", "http://page.example", "null"])
def test_pages_of_other_origins_may_not(closed: httpx.Client, origin: str) -> None:
    assert preflight(closed, origin).status_code == 400
    answer = closed.get("/models", headers={"Origin": origin} | bearer(OLD))
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_no_page_may_ask_unless_it_is_said(digits: httpx.Client) -> None:
    assert preflight(digits, PAGE).status_code == 405
    answer = digits.get("/models", headers={"Origin": PAGE})
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize("origins", ["page.example", f"{PAGE}/", f"{PAGE},"])
def test_origins_that_none_has_are_refused(refused: Refused, origins: str) -> None:
    done = refused("--cors-origins", origins)
    assert done.returncode == 1
    assert done.stderr.startswith("error: cors_origins.")


def test_the_page_for_people_runs_nothing_else(digits: httpx.Client) -> None:
    answer = digits.get("/docs")
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy["style-src"] == f"'sha256-{digest}'"
    assert "script-src" not in policy
