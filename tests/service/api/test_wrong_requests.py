"""Each mistake is named, and the service survives them all."""

import json
import uuid
from typing import Any

import httpx
import numpy as np
import pytest

from tests.service.http_client import JSON, NPY, Array, assert_problem, npy, post


@pytest.mark.parametrize(
    ("method", "path", "detail", "allow"),
    [
        ("GET", "/elbo", "GET /elbo", "POST"),
        ("PUT", "/encode", "PUT /encode", "POST"),
        ("POST", "/sample", "POST /sample", "GET"),
        ("DELETE", "/models/digits/model", "DELETE /models/digits/model", "GET"),
    ],
)
def test_wrong_methods(digits: httpx.Client, method: str, path: str, detail: str, allow: str) -> None:
    answer = digits.request(method, path)
    assert_problem(answer, 405, f"^{detail}$", None)
    assert allow in answer.headers["Allow"]


@pytest.mark.parametrize("path", ["/elbow", "/v1/elbo", "/models/digits", "/models/digits/versions/1", "/%00"])
def test_no_such_page(digits: httpx.Client, path: str) -> None:
    assert_problem(digits.get(path), 404, "^GET /", None)


LONG = "9" * 4300
"""As many digits as Python reads."""


@pytest.mark.parametrize(
    ("path", "query", "location"),
    [
        ("/elbo", {"draws": 3}, "query.draws"),
        ("/elbo", {"temperature": 1}, "query.temperature"),
        ("/elbo", {"num_draws": 0}, "query.num_draws"),
        ("/elbo", {"num_draws": "many"}, "query.num_draws"),
        ("/elbo", {"num_draws": "1.5"}, "query.num_draws"),
        ("/elbo", {"seed": -1}, "query.seed"),
        ("/elbo", {"seed": 2**32}, "query.seed"),
        ("/elbo", {"score": "magic"}, "query.score"),
        ("/elbo", {"refine": -1}, "query.refine"),
        ("/elbo", {"fdr": 0}, "query.fdr"),
        ("/elbo", {"fdr": 1}, "query.fdr"),
        ("/elbo", {"explain": "perhaps"}, "query.explain"),
        ("/elbo", {"timeout": 0}, "query.timeout"),
        ("/decode", {"timeout": "inf"}, "query.timeout"),
        ("/encode", {"num_draws": -1}, "query.num_draws"),
        ("/encode", {"explain": "true"}, "query.explain"),
        ("/decode", {"draw": 2}, "query.draw"),
        ("/decode", {"n": 2}, "query.n"),
        ("/elbo", {"num_draws": 2**63}, "query.num_draws"),
        ("/elbo", {"num_draws": LONG}, "query.num_draws"),
        ("/elbo", {"refine": LONG}, "query.refine"),
        ("/elbo", {"seed": LONG}, "query.seed"),
        ("/elbo", {"fdr": LONG}, "query.fdr"),
        ("/elbo", {"timeout": LONG}, "query.timeout"),
        ("/encode", {"num_draws": LONG}, "query.num_draws"),
        ("/decode", {"seed": LONG}, "query.seed"),
        ("/elbo", {"fields": "scores"}, "query.fields"),
        ("/elbo", {"fields": ""}, "query.fields"),
        ("/elbo", {"fields": "score,regret"}, "query.fields"),
        ("/decode", {"fields": "latents"}, "query.fields"),
    ],
)
def test_wrong_parameters(
    digits: httpx.Client, x: Array, z: Array, path: str, query: dict[str, Any], location: str
) -> None:
    assert_problem(post(digits, path, z if path == "/decode" else x, **query), 422, "", location)


ONE = [[0] * 8 for _ in range(8)]


def with_pixel(value: str) -> bytes:
    """Two pictures, one pixel of the second something else."""
    text = json.dumps({"instances": [ONE, ONE]})
    return text[::-1].replace("0", value[::-1], 1)[::-1].encode()


PIXEL = "instances[1][7][7]"

WRONG_BODIES: dict[str, tuple[bytes, int, str, str | None]] = {
    "nothing": (b"", 400, "not readable JSON", None),
    "truncated": (b'{"instances": [[[1, 2', 400, "not readable JSON", None),
    "not UTF-8": (b'{"instances": "\xff"}', 400, "not UTF-8: invalid start byte at byte 15", None),
    "BOM": (b'\xef\xbb\xbf{"instances": []}', 400, "BOM", None),
    "two documents": (b'{"instances": []} {}', 400, "Extra data", None),
    "comment": (b'{"instances": [] /* */}', 400, "not readable JSON", None),
    "nested": (b'{"instances":' + b"[" * 10**6, 400, "nested too deeply", None),
    "nested and closed": (b'{"instances":' + b"[" * 10**6 + b"]" * 10**6 + b"}", 400, "nested too deeply", None),
    "nested objects": (b'{"instances":' * 10**5, 400, "nested too deeply", None),
    "repeated key": (b'{"instances": [], "instances": []}', 400, "the key 'instances' occurs twice", None),
    "repeated deep down": (
        b'{"instances":' + b"[" * 500 + b'{"a":1,"a":1}' + b"]" * 500 + b"}",
        400,
        "the key 'a' occurs twice",
        "instances" + "[0]" * 500,
    ),
    "surrogate": (b'{"instances": [{"\\ud800": {"a": 1, "a": 2}}]}', 400, "twice", "instances[0].\\ud800"),
    "list": (b"[]", 422, 'an object with the one key "instances"', "body"),
    "null": (b"null", 422, 'an object with the one key "instances"', "body"),
    "another key": (b'{"latents": []}', 422, 'the one key "instances"', "body"),
    "one key too many": (b'{"instances": [], "seed": 1}', 422, 'the one key "instances"', "body"),
    "empty": (b'{"instances": []}', 422, "non-empty", "instances"),
    "object": (b'{"instances": {}}', 422, "non-empty array", "instances"),
    "number": (b'{"instances": 1}', 422, "non-empty array", "instances"),
    "numbers": (b'{"instances": [1]}', 422, "an array of 8 values, not a number", "instances[0]"),
    "records": (b'{"instances": [{"a": 1}]}', 422, "an array of 8 values, not an object", "instances[0]"),
    "seven rows": (json.dumps({"instances": [ONE[:7]]}).encode(), 422, "8 values, not 7", "instances[0]"),
    "ragged": (
        json.dumps({"instances": [ONE, [*ONE[:3], [0] * 9, *ONE[4:]]]}).encode(),
        422,
        "8 values, not 9",
        "instances[1][3]",
    ),
    "too deep": (
        json.dumps({"instances": [[[[0]] * 8] * 8]}).encode(),
        422,
        "a number, not an array",
        "instances[0][0][0]",
    ),
    "boolean": (with_pixel("true"), 422, "a number, not a boolean", PIXEL),
    "string": (with_pixel('"1"'), 422, "a number, not a string", PIXEL),
    "long string": (with_pixel(f'"{"a" * 10**6}"'), 422, "a number, not a string", PIXEL),
    "null pixel": (with_pixel("null"), 422, "a number, not null", PIXEL),
    "object pixel": (with_pixel("{}"), 422, "a number, not an object", PIXEL),
    "huge": (with_pixel("1" + "0" * 400), 422, "too large a number", PIXEL),
    "huge beside fractions": (
        json.dumps({"instances": [[[0.5, 10**400, *ONE[0][2:]], *ONE[1:]]]}).encode(),
        422,
        "too large a number",
        "instances[0][0][1]",
    ),
    "more digits than are read": (with_pixel("1" * 5000), 400, "not readable JSON", None),
    "2^64": (with_pixel(str(2**64)), 422, r"outside \[0, 16\]", PIXEL),
    "1e999": (with_pixel("1e999"), 422, "inf is not a finite number", PIXEL),
    "NaN": (with_pixel("NaN"), 400, "NaN is no JSON number", None),
    "Infinity": (with_pixel("-Infinity"), 400, "-Infinity is no JSON number", None),
    "fraction": (with_pixel("0.5"), 422, "0.5 is not a whole level", PIXEL),
    "negative": (with_pixel("-1"), 422, r"-1 is outside \[0, 16\]", PIXEL),
    "too bright": (with_pixel("17"), 422, r"17 is outside \[0, 16\]", PIXEL),
}


@pytest.mark.parametrize(("body", "status", "detail", "location"), WRONG_BODIES.values(), ids=WRONG_BODIES.keys())
def test_wrong_bodies(digits: httpx.Client, body: bytes, status: int, detail: str, location: str | None) -> None:
    for path in ("/elbo", "/models/digits/encode"):
        answer = digits.post(path, content=body, headers={"Content-Type": JSON})
        assert_problem(answer, status, detail, location)


@pytest.mark.parametrize(
    ("array", "status", "detail", "location"),
    [
        (np.zeros((2, 8, 9), np.uint8), 422, "8 values, not 9", "instances[0][0]"),
        (np.zeros((8, 8), np.uint8), 422, "an array of 8 values, not a number", "instances[0][0]"),
        (np.zeros((0, 8, 8), np.uint8), 422, "at least one instance", "instances"),
        (np.zeros((1, 8, 8), complex), 422, "real numbers, not complex", "instances"),
        (np.zeros((1, 8, 8), "U3"), 422, "real numbers, not <U3", "instances"),
        (np.zeros((1, 8, 8), "M8[s]"), 422, "real numbers, not datetime64", "instances"),
        (np.zeros((1, 8, 8), "u1,u1"), 422, "plain array", "instances"),
        (np.array(1), 422, "plain array", "instances"),
        (np.full((2, 8, 8), 17), 422, "17 is outside", "instances[0][0][0]"),
        (np.full((2, 8, 8), np.nan), 422, "nan is not a finite", "instances[0][0][0]"),
    ],
)
def test_wrong_arrays(digits: httpx.Client, array: Array, status: int, detail: str, location: str) -> None:
    assert_problem(post(digits, "/elbo", array, binary=True), status, detail, location)


def test_wrong_npy(digits: httpx.Client, x: Array) -> None:
    good = npy(x)
    for body in (b"", good[:5], good[:50], good[:-1], good + b"\0", b"PK" + good, good.replace(b"(5,", b"(9,")):
        answer = digits.post("/elbo", content=body, headers={"Content-Type": NPY})
        assert_problem(answer, 400, r"not a readable \.npy array", None)


@pytest.mark.parametrize("given", ["abc-123", "!" * 128, "trace=1;span=~"])
def test_request_ids_come_back(digits: httpx.Client, given: str) -> None:
    for path in ("/model", "/nowhere", "/health/live"):
        assert digits.get(path, headers={"X-Request-ID": given}).headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", [None, "", "a b", "a\tb", "x" * 129, "caf\xe9".encode("latin-1")])
def test_unsafe_request_ids_are_replaced(digits: httpx.Client, given: str | bytes | None) -> None:
    headers: list[tuple[str | bytes, str | bytes]] = [] if given is None else [("X-Request-ID", given)]
    ids = [
        httpx.Response(answer.status_code, headers=answer.headers).headers["X-Request-ID"]
        for answer in (digits.get("/model", headers=headers), digits.get("/nowhere", headers=headers))  # type: ignore[arg-type]
    ]
    assert ids[0] != ids[1]
    assert all(uuid.UUID(answer).hex == answer for answer in ids)


def test_the_service_is_still_healthy(digits: httpx.Client, several: httpx.Client, small: httpx.Client) -> None:
    for client in (digits, several, small):
        assert client.get("/health/ready").json() == {"status": "ready"}
        assert client.get("/models/digits/model").json()["golden_error"] <= 1
