"""Every media type says the same, and `Content-Type` and `Accept` decide."""

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from service.codecs.registry import ANSWERS
from tests.service.http_client import (
    ARROW,
    CSV,
    JSON,
    NPY,
    PNG,
    Array,
    arrow,
    assert_problem,
    assert_same,
    columns,
    npy,
    picture,
    post,
    send_request,
    table,
)


def encoded(levels: Image.Image) -> bytes:
    buffer = io.BytesIO()
    levels.save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize("accept", [JSON, NPY])
@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/encode", {}),
        ("/encode", {"num_draws": 3}),
        ("/encode", {"num_draws": 3, "seed": 5}),
        ("/elbo", {}),
        ("/elbo", {"num_draws": 7, "seed": 5}),
        ("/elbo", {"num_draws": 1}),
        ("/elbo", {"explain": True}),
        ("/elbo", {"refine": 2}),
        ("/elbo", {"fdr": 0.1}),
        ("/elbo", {"score": "multiscale_residual"}),
        ("/elbo", {"score": "regret"}),
        ("/decode", {}),
        ("/decode", {"draw": True, "seed": 5}),
    ],
)
def test_both_ways_in_are_the_same(
    digits: httpx.Client, x: Array, z: Array, path: str, query: dict[str, Any], accept: str
) -> None:
    array = z if path == "/decode" else x
    text = post(digits, path, array, accept, **query)
    binary = post(digits, path, array, accept, binary=True, **query)
    assert text.status_code == 200
    assert text.content == binary.content


@pytest.mark.parametrize(
    ("path", "query"),
    [("/encode", {"num_draws": 3}), ("/elbo", {"explain": True}), ("/decode", {}), ("/elbo", {"num_draws": 1})],
)
def test_both_ways_out_are_the_same(digits: httpx.Client, x: Array, z: Array, path: str, query: dict[str, Any]) -> None:
    array = z if path == "/decode" else x
    assert_same(send_request(digits, path, array, **query), send_request(digits, path, array, binary=True, **query))


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("image/*", PNG),
        ("text/*", CSV),
        (NPY, NPY),
        ("APPLICATION/X-NPY", NPY),
        (f"{JSON};q=0.5, {NPY}", NPY),
        (f"{JSON};q=0.5, {NPY};q=0.4, {PNG};q=0.6", PNG),
        (f"{JSON}; q=0, */*;q=0.1", NPY),
        (f"*/*, {JSON};q=0.9, {NPY};q=0.9", ARROW),
        ("text/html, application/*;q=0.9, */*;q=0.8", JSON),
        (f"{JSON};q=0, {NPY};q=0, image/*;q=0.001", PNG),
        (f"{JSON};charset=utf-8", JSON),
        (f"text/html,,{NPY}", NPY),
    ],
)
def test_accept_decides(digits: httpx.Client, accept: str | None, media_type: str) -> None:
    request = digits.build_request("GET", "/sample", headers={"Accept": accept or ""})
    if accept is None:
        del request.headers["Accept"]
    answer = digits.send(request)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == media_type


def test_lines_of_accept_are_one_list(digits: httpx.Client) -> None:
    for lines, media_type in (("text/html", NPY), NPY), ((f"{JSON};q=0.1", NPY, "*/*;q=0"), NPY), (("", PNG), PNG):
        answer = digits.get("/sample", headers=[("Accept", line) for line in lines])
        assert answer.headers["Content-Type"] == media_type


@pytest.mark.parametrize("accept", ["text/html", "image/jpeg", "application/x-npy;q=0", "*/*;q=0"])
def test_what_cannot_be_had_is_said(digits: httpx.Client, accept: str) -> None:
    answer = digits.get("/sample", headers={"Accept": accept})
    assert_problem(answer, 406, f"the answers are {', '.join(ANSWERS)}, {PNG}", "header.Accept")


def test_bounds_are_no_picture(digits: httpx.Client, x: Array) -> None:
    assert_problem(post(digits, "/elbo", x, PNG), 406, "the answers are application/json, ", "header.Accept")
    assert_problem(post(digits, "/encode", x, PNG), 406, "the answers are application/json, ", "header.Accept")


def test_a_quality_is_a_number(digits: httpx.Client) -> None:
    answer = digits.get("/sample", headers={"Accept": "application/json;q=high"})
    assert_problem(answer, 422, "'high' is no quality", "header.Accept")


@pytest.mark.parametrize("media_type", ["text/plain", "image/avif", "application/x-www-form-urlencoded", "json"])
def test_unread_media_types(digits: httpx.Client, media_type: str) -> None:
    answer = digits.post("/elbo", content=b"{}", headers={"Content-Type": media_type})
    assert_problem(answer, 415, f"bodies of '{media_type}' are not read", "header.Content-Type")


@pytest.mark.parametrize(
    ("coding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("GZIP", gzip.compress), ("x-gzip", gzip.compress)],
)
def test_compressed_bodies(
    digits: httpx.Client, small: httpx.Client, x: Array, z: Array, coding: str, pack: Callable[[bytes], bytes]
) -> None:
    headers = {"Content-Encoding": coding, "Content-Type": NPY}
    for path, array in (("/elbo", x), ("/encode", x), ("/decode", z)):
        answer = digits.post(path, content=pack(npy(array)), headers=headers)
        assert answer.content == post(digits, path, array, binary=True).content
    bomb = small.post("/elbo", content=pack(bytes(10**6)), headers=headers)
    assert_problem(bomb, 413, "more than 3,000 bytes when decompressed", "body")
    assert_problem(digits.post("/elbo", content=b"plain", headers=headers), 400, f"not a {coding.lower()} body", "body")


def test_other_codings_are_not_read(digits: httpx.Client) -> None:
    answer = digits.post("/elbo", content=b"", headers={"Content-Encoding": "br"})
    assert_problem(answer, 415, "'br' bodies are not read; send gzip, deflate, or plain", "header.Content-Encoding")
    assert answer.headers["Accept-Encoding"] == "gzip, deflate"


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_media_types_of_json(digits: httpx.Client, x: Array, media_type: str) -> None:
    headers = {"Content-Type": media_type}
    answer = digits.post("/elbo", content=json.dumps({"instances": x.tolist()}), headers=headers)
    assert answer.status_code == 200
    assert answer.content == post(digits, "/elbo", x).content


def post_arrow(client: httpx.Client, path: str, table: pa.Table, accept: str = ARROW) -> httpx.Response:
    headers = {"Content-Type": ARROW, "Accept": accept}
    return client.post(path, content=arrow(table), headers=headers)


def test_arrow_in_and_out(digits: httpx.Client, x: Array, z: Array) -> None:
    images = pa.table({"instances": pa.FixedShapeTensorArray.from_numpy_ndarray(x)})
    answer = post_arrow(digits, "/elbo", images).raise_for_status()
    assert answer.headers["Content-Type"] == ARROW
    read = pa.ipc.open_stream(answer.content).read_all()
    expected = send_request(digits, "/elbo", x, binary=True)
    assert read.column_names == list(expected)
    assert_same({name: read.column(name).to_numpy() for name in expected}, expected)

    latents = pa.table({"latents": pa.FixedSizeListArray.from_arrays(pa.array(z.ravel()), z.shape[1])})
    decoded = pa.ipc.open_stream(post_arrow(digits, "/decode", latents).raise_for_status().content).read_all()
    pixels = np.array(decoded.column("instances").to_pylist(), np.float32)
    np.testing.assert_array_equal(pixels, send_request(digits, "/decode", z, binary=True)["instances"])


def test_fields_choose_the_columns_of_an_answer(digits: httpx.Client, x: Array) -> None:
    whole = send_request(digits, "/elbo", x, binary=True)
    for binary in (False, True):
        assert_same(send_request(digits, "/elbo", x, binary=binary, fields="score,elbo"), pick(whole, "score", "elbo"))
    images = pa.table({"instances": pa.FixedShapeTensorArray.from_numpy_ndarray(x)})
    answer = post_arrow(digits, "/elbo?fields=kl", images).raise_for_status()
    assert pa.ipc.open_stream(answer.content).read_all().column_names == ["kl"]
    alone = np.load(io.BytesIO(post(digits, "/elbo", x, NPY, fields="p_value").content))
    np.testing.assert_array_equal(alone, whole["p_value"])
    assert post(digits, "/elbo", x, on_error="mark", fields="problem").json() == {"problem": [None] * len(x)}
    assert digits.get("/sample", params={"n": 2, "fields": "latents"}).json().keys() == {"latents"}


def pick(answer: dict[str, Array], *names: str) -> dict[str, Array]:
    return {name: answer[name] for name in names}


def test_arrow_tables_go_by_column_name(several: httpx.Client) -> None:
    people = pa.table({"colour": pa.array(["red", None, "blue"]).dictionary_encode(), "age": [1.5, 2.0, None]})
    read = pa.ipc.open_stream(post_arrow(several, "/models/people/elbo", people).raise_for_status().content).read_all()
    records = [{"age": 1.5, "colour": "red"}, {"age": 2, "colour": None}, {"age": None, "colour": "blue"}]
    assert read.column("elbo").to_pylist() == table(several, "elbo", records).json()["elbo"]
    dreamt = several.get("/models/people/sample", params={"n": 3, "seed": 1}, headers={"Accept": ARROW})
    struct = pa.ipc.open_stream(dreamt.raise_for_status().content).read_all().column("instances")
    assert struct.to_pylist() == several.get("/models/people/sample", params={"n": 3, "seed": 1}).json()["instances"]


def test_arrow_s_errors_name_the_place(several: httpx.Client, digits: httpx.Client) -> None:
    path = "/models/people/elbo"
    age = post_arrow(several, path, pa.table({"age": ["old"], "colour": ["red"]}))
    assert_problem(age, 422, "'old' is not a number", "instances[0].age")
    colour = post_arrow(several, path, pa.table({"age": [1.0, 2.0], "colour": ["red", "mauve"]}))
    assert_problem(colour, 422, "'mauve' is not a known category", "instances[1].colour")
    assert_problem(post_arrow(several, path, pa.table({"age": [1.0]})), 422, "is absent", "instances[0].colour")
    pixels = pa.table({"instances": pa.array([[[0.0] * 8] * 8, [[0.0] * 8] * 7 + [[99.0] * 8]])})
    assert_problem(post_arrow(digits, "/elbo", pixels), 422, "99 is outside", "instances[1][7][0]")
    answer = digits.post("/elbo", content=b"no stream", headers={"Content-Type": ARROW})
    assert_problem(answer, 400, "not a readable Arrow stream", None)


def test_a_picture_is_an_instance(digits: httpx.Client, x: Array) -> None:
    body = encoded(Image.fromarray(np.round(x[0] * (255 / 16)).astype(np.uint8)))
    answer = digits.post("/elbo", content=body, headers={"Content-Type": PNG, "Accept": NPY})
    assert_same(columns(answer), send_request(digits, "/elbo", x[:1], binary=True))
    wide = digits.post("/elbo", content=encoded(Image.new("L", (9, 8))), headers={"Content-Type": PNG})
    assert_problem(wide, 422, "has 8 × 9 pixels", "instances[0]")
    latent = digits.post("/decode", content=body, headers={"Content-Type": PNG})
    assert_problem(latent, 415, f"bodies of '{PNG}' are not read", "header.Content-Type")


@pytest.mark.parametrize("body", [b"no picture", b"\x89PNG\r\n\x1a\n and no more"])
def test_a_damaged_picture_is_a_row_that_can_be_marked(digits: httpx.Client, body: bytes) -> None:
    headers = {"Content-Type": "image/png"}
    assert digits.post("/elbo", content=body, headers=headers).status_code == 400
    marked = digits.post("/elbo?on_error=mark", content=body, headers=headers).raise_for_status().json()
    assert marked["score"] == [None]
    assert re.match(r"instances\[0\]: is (no PNG|damaged)", marked["problem"][0])


def test_a_drawn_picture_can_be_sent_back(digits: httpx.Client) -> None:
    drawn = digits.get("/sample", params={"n": 1}, headers={"Accept": PNG}).raise_for_status().content
    sent = digits.post("/instances", content=drawn, headers={"Content-Type": PNG, "Accept": NPY})
    instances = columns(digits.get("/sample", params={"n": 1}, headers={"Accept": NPY}))["instances"]
    np.testing.assert_array_equal(columns(sent)["instances"], np.rint(np.clip(instances, 0, 16)))


def test_the_service_says_what_it_reads(digits: httpx.Client, several: httpx.Client, x: Array) -> None:
    octets = {"Content-Type": "application/octet-stream", "Accept": NPY}
    for sent in (x, x[0]):
        read = columns(digits.post("/instances", content=npy(sent), headers=octets))["instances"]
        np.testing.assert_array_equal(read, sent.reshape(-1, 8, 8))
    records = [{"age": 1.5, "colour": None}, {"age": None, "colour": "red"}]
    assert table(several, "instances", records).json() == {"instances": records}
    seen = digits.post("/instances", content=npy(x[:1]), headers={"Content-Type": NPY, "Accept": PNG})
    np.testing.assert_array_equal(picture(seen), np.round(x[0] * (255 / 16)))
