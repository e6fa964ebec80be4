"""Pages of other sites: neither DNS rebinding nor a request without a preflight gets through."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import Serve
from tests.service.load import ONE
from tests.service.sockets import BODY, Client, post

TENSOR = {"name": "x", "shape": [1, 8, 8], "datatype": "FP32", "data": [ONE]}


@pytest.fixture(scope="module")
def named(serve: Serve) -> Iterator[httpx.Client]:
    with serve("--allowed-hosts", "scores.example,.inner.example", "--cors-origins", "https://page.example") as client:
        yield client


def status(client: httpx.Client, host: str, path: str = "/elbo", body: object = None, **headers: str) -> int:
    return client.post(path, json=body or {"instances": [ONE]}, headers={"Host": host} | headers).status_code


@pytest.mark.parametrize(
    "host", ["localhost:8000", "LOCALHOST", "localhost.", "a.localhost", "127.0.0.1", "[::1]:8000", "10.1.2.3"]
)
def test_names_of_this_machine_and_addresses_are_answered(digits: httpx.Client, host: str) -> None:
    assert status(digits, host) == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil-localhost"])
def test_other_names_are_refused(digits: httpx.Client, host: str) -> None:
    assert status(digits, host) == 403
    answer = digits.get("/model", headers={"Host": host})
    assert (answer.status_code, answer.json()["location"]) == (403, "header.Host")
    assert digits.get("/v2/models/digits", headers={"Host": host}).json().keys() == {"error"}


def test_names_can_be_allowed(named: httpx.Client) -> None:
    assert [status(named, host) for host in ("scores.example", "b.inner.example:80", "localhost")] == [200, 200, 403]
    assert named.get("/health/live", headers={"Host": "10.0.0.7:8000"}).status_code == 200  # A probe.


@pytest.mark.parametrize("path", ["/elbo", "/v2/models/digits/infer"])
def test_pages_of_other_origins_may_not_send(named: httpx.Client, path: str) -> None:
    body = {"inputs": [TENSOR]} if "v2" in path else None
    asked = [
        {},
        {"Origin": "http://scores.example"},
        {"Origin": "https://page.example"},
        {"Origin": "https://proxied.example", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://scores.example.evil"},
        {"Origin": "null"},
    ]
    found = [status(named, "scores.example", path, body, **headers) for headers in asked]
    assert found == [200] * 4 + [403] * 3


def test_json_has_to_be_named(digits: httpx.Client) -> None:
    with Client(digits.base_url.port or 0) as client:
        client.send(post(BODY).replace(b"Content-Type: application/json\r\n", b""))
        code, _, body = client.answer()
        assert (code, json.loads(body)["location"]) == (415, "header.Content-Type")
        assert "names no media type" in json.loads(body)["detail"]


def test_a_preflight_has_an_id(named: httpx.Client) -> None:
    headers = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST", "X-Request-ID": "mine"}
    answer = named.options("/elbo", headers={"Host": "scores.example"} | headers)
    assert (answer.status_code, answer.headers["X-Request-ID"]) == (200, "mine")
