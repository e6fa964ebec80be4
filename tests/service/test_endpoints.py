"""Every endpoint over HTTP: each media type says the same, each mistake is named, and the service survives them all."""

import io
import json
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from PIL import Image

from service import noise
from service.bundle import Bundle
from service.calibration import discoveries, p_values
from service.engine import OnnxEngine
from service.errors import DeviceError
from service.manifest import BOUNDS

Array = npt.NDArray[Any]
Serve = Callable[..., AbstractContextManager[httpx.Client]]
Refused = Callable[..., CompletedProcess[str]]

NPY = "application/x-npy"
ARROW = "application/vnd.apache.arrow.stream"
PNG = "image/png"
JSON = "application/json"
PROBLEM = "application/problem+json"
COLUMNS = [*BOUNDS, "score", "p_value"]


@pytest.fixture(scope="module")
def x() -> Array:
    return np.random.default_rng(0).integers(0, 17, (5, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="module")
def latent_size(digits_bundle: Bundle) -> int:
    return digits_bundle.manifest.latent_size


@pytest.fixture(scope="module")
def z(latent_size: int) -> Array:
    return np.random.default_rng(1).standard_normal((5, latent_size), dtype=np.float32)


@pytest.fixture(scope="module")
def several(serve: Serve, several_models: Path) -> Iterator[httpx.Client]:
    with serve("--models", str(several_models), "--lanes", "1") as client:
        yield client


@pytest.fixture(scope="module")
def small(serve: Serve) -> Iterator[httpx.Client]:
    """A server that takes little: 3,000 bytes, 4,096 row-draws, 1,024 draws."""
    with serve("--max-body", "3000", "--max-queue", "4096", "--max-draws", "1024", "--lanes", "1") as client:
        yield client


def npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def post(
    client: httpx.Client, path: str, array: Array, accept: str = JSON, *, binary: bool = False, **query: Any
) -> httpx.Response:
    """Post an array as JSON or .npy."""
    field = "latents" if path.endswith("decode") else "instances"
    content = npy(array) if binary else json.dumps({field: array.tolist()}).encode()
    headers = {"Content-Type": NPY if binary else JSON, "Accept": accept}
    return client.post(path, params=query, content=content, headers=headers)


def ask(client: httpx.Client, path: str, array: Array, *, binary: bool = False, **query: Any) -> dict[str, Array]:
    """The columns of an answer, asked for in JSON or .npy."""
    return columns(post(client, path, array, NPY if binary else JSON, binary=binary, **query))


def columns(response: httpx.Response) -> dict[str, Array]:
    assert response.status_code == 200, response.text
    if response.headers["Content-Type"] == JSON:
        return {name: np.array(values, np.float64) for name, values in response.json().items()}
    assert response.headers["Content-Type"] == NPY
    table = np.load(io.BytesIO(response.content), allow_pickle=False)
    return {name: table[name] for name in table.dtype.names} if table.dtype.names else {"instances": table}


def assert_same(first: dict[str, Array], second: dict[str, Array]) -> None:
    """The same numbers to the bit; JSON has more digits than a float32 needs, and null for NaN."""
    assert list(first) == list(second)
    for name, values in second.items():
        np.testing.assert_array_equal(first[name].astype(values.dtype), values, name)


def picture(response: httpx.Response) -> Array:
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == PNG
    with Image.open(io.BytesIO(response.content)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def assert_problem(response: httpx.Response, status: int, detail: str, location: str | None) -> None:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == PROBLEM
    problem = response.json()
    assert problem.keys() == {"type", "title", "status", "detail"} | ({"location"} if location else set())
    assert problem["type"] == "about:blank"
    assert problem["status"] == status
    assert problem["title"] == response.reason_phrase or status in {413, 422}
    assert re.search(detail, problem["detail"]), problem["detail"]
    assert problem.get("location") == location
    assert response.headers["X-Request-ID"]


# Answers


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
        ("/elbo", {"score": "coarse_error"}),
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
    assert_same(ask(digits, path, array, **query), ask(digits, path, array, binary=True, **query))


def test_encode_answers_the_posterior(digits: httpx.Client, digits_bundle: Bundle) -> None:
    golden = digits_bundle.golden["encoder"]
    answer = ask(digits, "/encode", golden["x"], binary=True)
    assert list(answer) == ["mean", "log_variance"]
    assert all(values.dtype == np.float32 and values.shape == golden["mean"].shape for values in answer.values())
    for name, values in answer.items():
        np.testing.assert_allclose(values, golden[name], atol=1e-4)


@pytest.mark.parametrize("seed", [None, 0, 3])
@pytest.mark.parametrize("num_draws", [1, 16, 20])
def test_posterior_draws_are_the_mean_and_the_noise(
    digits: httpx.Client, digits_bundle: Bundle, x: Array, num_draws: int, seed: int | None
) -> None:
    query = {"num_draws": num_draws} | ({} if seed is None else {"seed": seed})
    answer = ask(digits, "/encode", x, binary=True, **query)
    bank = noise.bank(seed or digits_bundle.manifest.seed, num_draws, digits_bundle.manifest.latent_size)
    assert answer["draws"].dtype == np.float32
    assert answer["draws"].shape == (5, *bank.shape)
    expected = answer["mean"][:, None] + np.exp(0.5 * answer["log_variance"])[:, None] * bank
    np.testing.assert_allclose(answer["draws"], expected, rtol=1e-6, atol=1e-6)


def test_decode_answers_the_expectation(digits: httpx.Client, digits_bundle: Bundle) -> None:
    golden = digits_bundle.golden["decoder"]
    answer = ask(digits, "/decode", golden["z"], binary=True)["instances"]
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, golden["x_mean"], atol=1e-3)


def test_drawn_instances_follow_the_seed(digits: httpx.Client, digits_bundle: Bundle, z: Array) -> None:
    def draw(**query: Any) -> Array:
        return ask(digits, "/decode", z, binary=True, draw=True, **query)["instances"]

    assert draw().shape == (5, 8, 8)
    np.testing.assert_array_equal(draw(seed=3), draw(seed=3))
    np.testing.assert_array_equal(draw(), draw(seed=digits_bundle.manifest.seed))
    assert not np.array_equal(draw(seed=3), draw(seed=4))
    assert not np.array_equal(draw(), ask(digits, "/decode", z, binary=True)["instances"])


def test_sample_decodes_its_latents(digits: httpx.Client, latent_size: int) -> None:
    answer = columns(digits.get("/sample", params={"n": 6, "seed": 2}, headers={"Accept": NPY}))
    assert list(answer) == ["latents", "instances"]
    assert answer["latents"].dtype == answer["instances"].dtype == np.float32
    decoded = ask(digits, "/decode", answer["latents"], binary=True)["instances"]
    np.testing.assert_array_equal(answer["instances"], decoded)
    np.testing.assert_array_equal(answer["latents"], noise.standard_normal(2, (6, latent_size)))


def test_sample_follows_the_seed(digits: httpx.Client, digits_bundle: Bundle) -> None:
    def sample(**query: Any) -> bytes:
        return digits.get("/sample", params=query).raise_for_status().content

    assert sample(seed=2) == sample(seed=2)
    assert sample() == sample(seed=digits_bundle.manifest.seed, n=16, temperature=1.0)
    assert len({sample(seed=seed) for seed in range(5)}) == 5


def test_temperature_is_a_factor(digits: httpx.Client, latent_size: int) -> None:
    def sample(temperature: float) -> dict[str, Array]:
        return columns(digits.get("/sample", params={"n": 3, "temperature": temperature}, headers={"Accept": NPY}))

    np.testing.assert_allclose(sample(2.5)["latents"], 2.5 * sample(1)["latents"], rtol=1e-6)
    cold = sample(0)
    assert not cold["latents"].any()
    zero = ask(digits, "/decode", np.zeros((1, latent_size), np.float32), binary=True)["instances"]
    np.testing.assert_array_equal(cold["instances"], np.repeat(zero, 3, axis=0))


@pytest.mark.parametrize(("n", "grid"), [(1, (1, 1)), (2, (1, 2)), (5, (2, 3)), (16, (4, 4))])
def test_a_picture_shows_the_samples(digits: httpx.Client, n: int, grid: tuple[int, int]) -> None:
    pixels = picture(digits.get("/sample", params={"n": n}, headers={"Accept": PNG}))
    answer = columns(digits.get("/sample", params={"n": n}, headers={"Accept": NPY}))["instances"]
    assert pixels.shape == (8 * grid[0], 8 * grid[1])
    for i in range(grid[0] * grid[1]):
        row, column = divmod(i, grid[1])
        tile = pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        wanted = np.round(255 * np.clip(answer[i] / 16, 0, 1)).astype(np.uint8) if i < n else np.zeros((8, 8), np.uint8)
        np.testing.assert_array_equal(tile, wanted)


def test_a_picture_shows_what_is_decoded(digits: httpx.Client, z: Array) -> None:
    decoded = ask(digits, "/decode", z[:1], binary=True)["instances"]
    pixels = picture(post(digits, "/decode", z[:1], PNG))
    np.testing.assert_array_equal(pixels, np.round(255 * np.clip(decoded[0] / 16, 0, 1)).astype(np.uint8))


def test_elbo_answers_the_bounds(digits: httpx.Client, digits_bundle: Bundle) -> None:
    golden = digits_bundle.golden["elbo"]
    answer = ask(digits, "/elbo", golden["x"], binary=True)
    assert list(answer) == COLUMNS
    assert all(values.dtype == np.float64 and values.shape == (4,) for values in answer.values())
    for name in BOUNDS:
        np.testing.assert_allclose(answer[name], golden[name], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(answer["elbo"], answer["log_likelihood"] - answer["kl"], rtol=1e-9)
    assert np.all(answer["log_evidence"] >= answer["elbo"])
    assert np.all((answer["ess"] >= 1 / digits_bundle.manifest.num_draws) & (answer["ess"] <= 1))
    assert np.all(answer["standard_error"] > 0)


def test_one_draw_has_no_standard_error(digits: httpx.Client, x: Array) -> None:
    answer = post(digits, "/elbo", x, num_draws=1).json()
    assert answer["standard_error"] == [None] * 5
    assert answer["ess"] == [1.0] * 5


@pytest.mark.parametrize(
    ("score", "bound"), [(None, "elbo"), ("negative_elbo", "elbo"), ("negative_log_evidence", "log_evidence")]
)
def test_scores_and_their_p_values(digits: httpx.Client, digits_bundle: Bundle, score: str | None, bound: str) -> None:
    rows = np.concatenate([digits_bundle.golden["elbo"]["x"], np.full((1, 8, 8), 16, np.uint8)])
    answer = ask(digits, "/elbo", rows, binary=True, **({"score": score} if score else {}))
    np.testing.assert_array_equal(answer["score"], -answer[bound])
    held_out = digits_bundle.calibration[score or "negative_elbo"]
    by_hand = [(1 + np.sum(held_out >= value)) / (len(held_out) + 1) for value in answer["score"]]
    np.testing.assert_array_equal(answer["p_value"], by_hand)
    np.testing.assert_array_equal(answer["p_value"], p_values(answer["score"], held_out))
    assert answer["p_value"][-1] == 1 / (len(held_out) + 1)
    assert answer["p_value"][:-1].max() > 0.05


def test_p_values_are_given_only_where_they_are_valid(digits: httpx.Client, digits_bundle: Bundle, x: Array) -> None:
    manifest = digits_bundle.manifest
    draws, seed = manifest.num_draws, manifest.seed
    for query in ({}, {"seed": seed}, {"num_draws": draws}, {"seed": seed, "num_draws": draws}):
        assert None not in post(digits, "/elbo", x, **query).json()["p_value"]
    for query in ({"seed": seed + 1}, {"num_draws": draws - 1}, {"num_draws": draws + 1, "seed": seed}, {"refine": 2}):
        assert post(digits, "/elbo", x, **query).json()["p_value"] == [None] * len(x)


@pytest.mark.parametrize("score", ["typicality", "coarse_error"])
def test_scores_without_draws_have_p_values_under_any(
    digits: httpx.Client, digits_bundle: Bundle, x: Array, score: str
) -> None:
    engine = OnnxEngine(digits_bundle.manifest.graphs, digits_bundle.files, "cpu")
    expected = engine.run("scores", {"x": x})[score]
    for query in ({}, {"seed": 5}, {"num_draws": 3, "refine": 1}):
        answer = ask(digits, "/elbo", x, binary=True, score=score, **query)
        np.testing.assert_array_equal(answer["score"], expected)
        np.testing.assert_array_equal(answer["p_value"], p_values(expected, digits_bundle.calibration[score]))


def test_discoveries_are_made_over_the_request(digits: httpx.Client, digits_bundle: Bundle) -> None:
    usual = digits_bundle.golden["elbo"]["x"]
    checked = (16 * (np.indices((6, 8, 8)).sum(0) % 2)).astype(np.uint8)
    rows = np.concatenate([usual, checked])
    answer = ask(digits, "/elbo", rows, binary=True, fdr=0.02)
    np.testing.assert_array_equal(answer["discovery"], discoveries(answer["p_value"], 0.02))
    assert answer["discovery"].tolist() == [False] * len(usual) + [True] * len(checked)
    assert "discovery" not in ask(digits, "/elbo", rows)
    refused = post(digits, "/elbo", rows, fdr=0.02, seed=5)
    assert_problem(refused, 422, "without valid p-values", "query.fdr")


def test_explanations_add_up(digits: httpx.Client, digits_bundle: Bundle) -> None:
    rows = digits_bundle.golden["elbo"]["x"]
    for query in ({}, {"num_draws": 5, "seed": 9}):
        answer = ask(digits, "/elbo", rows, binary=True, explain=True, **query)
        assert list(answer) == [*BOUNDS, "score", "p_value", "feature_log_likelihood", "latent_kl"]
        assert answer["feature_log_likelihood"].shape == (4, 8, 8)
        assert answer["latent_kl"].shape == (4, digits_bundle.manifest.latent_size)
        total = answer["feature_log_likelihood"].sum(axis=(1, 2))
        np.testing.assert_allclose(total, answer["log_likelihood"], rtol=1e-6)
        np.testing.assert_allclose(answer["latent_kl"].sum(axis=1), answer["kl"], rtol=1e-6)
        plain = ask(digits, "/elbo", rows, binary=True, **query)
        assert_same({name: answer[name] for name in plain}, plain)


def test_more_draws_raise_the_bound_and_narrow_the_error(digits: httpx.Client, digits_bundle: Bundle) -> None:
    rows = digits_bundle.golden["elbo"]["x"]
    few, many = (ask(digits, "/elbo", rows, binary=True, num_draws=draws) for draws in (2, 2048))
    assert many["log_evidence"].mean() > few["log_evidence"].mean()
    assert np.all(many["standard_error"] < few["standard_error"].max())
    difference = np.abs(many["elbo"] - ask(digits, "/elbo", rows, binary=True, num_draws=2048, seed=1)["elbo"])
    assert np.all(difference < 5 * many["standard_error"])


def test_the_model_describes_itself(digits: httpx.Client, digits_bundle: Bundle) -> None:
    answer = digits.get("/model").raise_for_status().json()
    assert answer["manifest"] == json.loads(digits_bundle.manifest.model_dump_json())
    assert answer["bundle"] == digits_bundle.digest
    assert answer["device"] in {"cpu", "cuda"}
    assert 0 <= answer["golden_error"] <= 1
    assert digits.get("/models").json() == {"models": {"digits": [1]}}


def test_every_answer_names_its_model(digits: httpx.Client, digits_bundle: Bundle, x: Array, z: Array) -> None:
    answers = [digits.get("/model"), digits.get("/sample")]
    answers += [post(digits, path, z if path == "/decode" else x) for path in ("/encode", "/decode", "/elbo")]
    answers += [post(digits, "/elbo", x, NPY), post(digits, "/decode", z, PNG)]
    for answer in answers:
        assert answer.is_success
        assert answer.headers["Lowerbound-Model"] == "digits"
        assert answer.headers["Lowerbound-Version"] == "1"
        assert answer.headers["Lowerbound-Bundle"] == digits_bundle.digest
        assert answer.headers["Lowerbound-Device"] == answers[0].json()["device"]


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_health(digits: httpx.Client, path: str) -> None:
    answer = digits.get(path)
    assert answer.status_code == 200
    assert answer.json() == {"status": path.rpartition("/")[2]}


# Media types


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("image/*", PNG),
        (NPY, NPY),
        ("APPLICATION/X-NPY", NPY),
        (f"{JSON};q=0.5, {NPY}", NPY),
        (f"{JSON};q=0.5, {NPY};q=0.4, {PNG};q=0.6", PNG),
        (f"{JSON}; q=0, */*;q=0.1", NPY),
        (f"*/*, {JSON};q=0.9, {NPY};q=0.9", PNG),
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


@pytest.mark.parametrize("accept", ["text/html", "image/jpeg", "application/x-npy;q=0", "text/*", "*/*;q=0"])
def test_what_cannot_be_had_is_said(digits: httpx.Client, accept: str) -> None:
    answer = digits.get("/sample", headers={"Accept": accept})
    assert_problem(answer, 406, f"the answers are {JSON}, {NPY}, {PNG}, {ARROW}", "header.Accept")


def test_bounds_are_no_picture(digits: httpx.Client, x: Array) -> None:
    assert_problem(post(digits, "/elbo", x, PNG), 406, "the answers are application/json, ", "header.Accept")
    assert_problem(post(digits, "/encode", x, PNG), 406, "the answers are application/json, ", "header.Accept")


def test_a_quality_is_a_number(digits: httpx.Client) -> None:
    answer = digits.get("/sample", headers={"Accept": "application/json;q=high"})
    assert_problem(answer, 422, "'high' is no quality", "header.Accept")


@pytest.mark.parametrize("media_type", ["text/plain", "image/gif", "application/x-www-form-urlencoded", "json", ""])
def test_unread_media_types(digits: httpx.Client, media_type: str) -> None:
    answer = digits.post("/elbo", content=b"{}", headers={"Content-Type": media_type})
    assert_problem(answer, 415, f"bodies of '{media_type}' are not read", "header.Content-Type")


def test_compressed_bodies_are_not_read(digits: httpx.Client) -> None:
    answer = digits.post("/elbo", content=b"", headers={"Content-Encoding": "gzip"})
    assert_problem(answer, 415, "'gzip' bodies are not read", "header.Content-Encoding")


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON", None])
def test_media_types_of_json(digits: httpx.Client, x: Array, media_type: str | None) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    answer = digits.post("/elbo", content=json.dumps({"instances": x.tolist()}), headers=headers)
    assert answer.status_code == 200
    assert answer.content == post(digits, "/elbo", x).content


# Wrong requests


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


@pytest.mark.parametrize("path", ["/", "/elbow", "/v1/elbo", "/models/digits", "/models/digits/versions/1", "/%00"])
def test_no_such_page(digits: httpx.Client, path: str) -> None:
    assert_problem(digits.get(path), 404, "^GET /", None)


@pytest.mark.parametrize(
    ("path", "status", "detail", "location"),
    [
        ("/models/faces/sample", 404, "no model 'faces' is served; there are digits", None),
        ("/models/digits/versions/2/sample", 404, "digits has no version 2; there are 1", None),
        ("/models/DIGITS/sample", 404, "no model 'DIGITS' is served; there are digits", None),
        ("/models/digits/versions/99999999999999999999/sample", 404, "no version", "path.version"),
    ],
)
def test_no_such_model(digits: httpx.Client, path: str, status: int, detail: str, location: str | None) -> None:
    assert_problem(digits.get(path), status, detail, location)


@pytest.mark.parametrize("version", ["latest", "0", "-1", "1.0", "01", "%D9%A1", "1%20"])
def test_versions_are_written_one_way(digits: httpx.Client, version: str) -> None:
    answer = digits.get(f"/models/digits/versions/{version}/model")
    assert answer.status_code in {404, 422}
    assert answer.headers["Content-Type"] == PROBLEM
    assert answer.json()["location"] == "path.version"


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
        ("/encode", {"num_draws": -1}, "query.num_draws"),
        ("/encode", {"explain": "true"}, "query.explain"),
        ("/decode", {"draw": 2}, "query.draw"),
        ("/decode", {"n": 2}, "query.n"),
    ],
)
def test_wrong_parameters(
    digits: httpx.Client, x: Array, z: Array, path: str, query: dict[str, Any], location: str
) -> None:
    assert_problem(post(digits, path, z if path == "/decode" else x, **query), 422, "", location)


@pytest.mark.parametrize(
    "query",
    [{"n": 0}, {"n": -1}, {"temperature": -1}, {"temperature": "nan"}, {"temperature": "inf"}, {"seed": "x"}, {"N": 1}],
)
def test_wrong_sampling_parameters(digits: httpx.Client, query: dict[str, Any]) -> None:
    assert_problem(digits.get("/sample", params=query), 422, "", f"query.{next(iter(query))}")


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
        (np.zeros((1, 8, 8), bool), 422, "real numbers, not bool", "instances"),
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


def test_wrong_latents(digits: httpx.Client, z: Array, latent_size: int) -> None:
    for value, detail in ((np.nan, "nan"), (np.inf, "inf"), (1e39, "inf")):
        wrong = z.astype(float)
        wrong[3, 7] = value
        answer = post(digits, "/decode", wrong, binary=True)
        assert_problem(answer, 422, f"{detail} is not a finite number in float32", "latents[3][7]")
    for binary in (False, True):
        answer = post(digits, "/decode", z[:, :-1], binary=binary)
        assert_problem(answer, 422, f"{latent_size} values, not {latent_size - 1}", "latents[0]")
    answer = digits.post("/decode", json={"instances": z.tolist()})
    assert_problem(answer, 422, 'the one key "latents"', "body")


# Limits


@pytest.mark.parametrize(
    ("path", "query", "location"),
    [
        ("/elbo", {"num_draws": 1025}, "query.num_draws"),
        ("/elbo", {"num_draws": 10**30}, "query.num_draws"),
        ("/elbo", {"num_draws": 1024}, "query.num_draws"),
        ("/encode", {"num_draws": 1025}, "query.num_draws"),
        ("/encode", {"num_draws": 1000}, "query.num_draws"),
    ],
)
def test_too_many_draws(small: httpx.Client, x: Array, path: str, query: dict[str, Any], location: str) -> None:
    assert_problem(post(small, path, x, **query), 413, "draws", location)


def test_as_many_draws_as_are_allowed(small: httpx.Client, x: Array, latent_size: int) -> None:
    assert columns(post(small, "/elbo", x[:4], num_draws=1024))["elbo"].shape == (4,)
    explained = columns(post(small, "/elbo", x[:4], num_draws=1024, explain=True))
    assert explained["latent_kl"].shape == (4, latent_size)


def test_too_many_samples(small: httpx.Client) -> None:
    assert len(small.get("/sample", params={"n": 4096}).json()["latents"]) == 4096
    for n in (4097, 10**30):
        assert_problem(small.get("/sample", params={"n": n}), 413, "one request may ask for 4,096", "query.n")


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
    full = np.repeat(x[:1], 64, axis=0)  # With 4,096 draws, all that may wait at once.
    with serve("--lanes", "1") as client, ThreadPoolExecutor(4) as pool:
        requests = [pool.submit(post, client, "/elbo", full, binary=True, num_draws=4096) for _ in range(4)]
        answers = [request.result() for request in requests]
        assert {answer.status_code for answer in answers} == {200, 429}
        for answer in answers:
            if answer.status_code == 429:
                assert_problem(answer, 429, "262,144 row-draws are queued, 262,144 at most", None)
                assert int(answer.headers["Retry-After"]) >= 1
        assert post(client, "/elbo", x).status_code == 200


def test_a_request_that_takes_too_long_is_given_up(serve: Serve, x: Array) -> None:
    with serve("--lanes", "1", "--timeout", "0.1") as client:
        answer = post(client, "/elbo", np.repeat(x[:1], 64, axis=0), binary=True, num_draws=4096)
        assert_problem(answer, 504, "not answered within 0.1 seconds", None)
        assert client.get("/health/live").status_code == 200


# Request ids


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


# Several models


def test_paths_find_their_model(digits: httpx.Client, x: Array, z: Array) -> None:
    for prefix in ("/models/digits", "/models/digits/versions/1"):
        assert digits.get(f"{prefix}/model").json()["bundle"] == digits.get("/model").json()["bundle"]
        assert digits.get(f"{prefix}/sample").content == digits.get("/sample").content
        for path in ("/encode", "/decode", "/elbo"):
            array = z if path == "/decode" else x
            assert post(digits, prefix + path, array).content == post(digits, path, array).content


def test_without_a_default_the_models_are_named(several: httpx.Client, x: Array) -> None:
    for answer in (several.get("/model"), several.get("/sample"), post(several, "/elbo", x)):
        assert_problem(answer, 404, "several models are served .* NAME one of digits, people", None)
    assert several.get("/models").json() == {"models": {"digits": [1, 2], "people": [1]}}


def test_the_latest_version_answers(several: httpx.Client) -> None:
    assert several.get("/models/digits/model").json()["manifest"]["version"] == 2
    for version in (1, 2):
        answer = several.get(f"/models/digits/versions/{version}/sample")
        assert answer.headers["Lowerbound-Version"] == str(version)
    assert_problem(several.get("/models/digits/versions/3/model"), 404, "no version 3; there are 1, 2", None)


def test_a_default_among_several(serve: Serve, several_models: Path, x: Array) -> None:
    with serve("--models", str(several_models), "--default-model", "digits") as client:
        assert client.get("/model").headers["Lowerbound-Model"] == "digits"
        assert post(client, "/elbo", x).headers["Lowerbound-Version"] == "2"
        assert client.get("/models/people/model").headers["Lowerbound-Model"] == "people"


# A table's model


def table(client: httpx.Client, path: str, values: Sequence[Any], **query: Any) -> httpx.Response:
    field = "latents" if path == "decode" else "instances"
    body = json.dumps({field: values})  # Unlike httpx, escapes what is not ASCII.
    return client.post(f"/models/people/{path}", content=body, params=query)


def test_records_and_lists_and_codes_are_the_same(several: httpx.Client) -> None:
    records = [{"age": 1.5, "colour": "blue"}, {"colour": None, "age": 2}, {"age": None, "colour": "red"}]
    lists = [[1.5, "blue"], [2, None], [None, "red"]]
    codes = np.array([[1.5, 1], [2, np.nan], [np.nan, 0]])
    for path in ("encode", "elbo"):
        answers = [table(several, path, values) for values in (records, lists)]
        answers.append(post(several, f"/models/people/{path}", codes, binary=True))
        assert answers[0].status_code == 200
        assert answers[0].content == answers[1].content == answers[2].content
    assert table(several, "encode", records).json()["mean"] == [[1.5, 1], [2, 0], [0, 0]]
    assert table(several, "elbo", records).json()["log_likelihood"] == [-3.25, -4, 0]


def test_decoded_rows_are_records(several: httpx.Client) -> None:
    answer = table(several, "decode", [[0.5, 1.0], [-3.0, -1.0]])
    assert answer.json() == {"instances": [{"age": 0.5, "colour": "blue"}, {"age": -3.0, "colour": "red"}]}
    binary = post(several, "/models/people/decode", np.array([[0.5, 1.0]]), NPY, binary=True)
    assert columns(binary)["instances"].tolist() == [[0.5, 1.0]]


def test_a_score_that_is_not_calibrated_has_no_p_value(several: httpx.Client) -> None:
    rows = [[1.0, "red"]]
    assert table(several, "elbo", rows).json()["p_value"] != [None]
    answer = table(several, "elbo", rows, score="negative_log_evidence").json()
    assert answer["p_value"] == [None]
    assert answer["score"] == [-answer["log_evidence"][0]]


@pytest.mark.parametrize(
    ("value", "detail", "location"),
    [
        ([1], "must have 2 values, not 1", "instances[1]"),
        ("red", "must be a record or an array, not a string", "instances[1]"),
        (None, "must be a record or an array, not null", "instances[1]"),
        ({"age": 1}, "is absent; send null", "instances[1].colour"),
        ({"age": 1, "colour": "red", "Age": 1}, "no column", "instances[1].Age"),
        ({"age": 1, "colour": "red", "\ud800": 1}, "no column", "instances[1].\\ud800"),
        (
            {"age": 1, "colour": "green"},
            "'green' is not a known category; known are 'red', 'blue'",
            "instances[1].colour",
        ),
        ({"age": 1, "colour": 0}, "0 is not a known category", "instances[1].colour"),
        ({"age": 1, "colour": ["red"]}, "is not a known category", "instances[1].colour"),
        ({"age": "1", "colour": "red"}, "a number, not a string", "instances[1].age"),
        ({"age": True, "colour": "red"}, "a number, not a boolean", "instances[1].age"),
        ([10**400, "red"], "too large a number", "instances[1].age"),
    ],
)
def test_wrong_rows(several: httpx.Client, value: Any, detail: str, location: str) -> None:
    assert_problem(table(several, "elbo", [[1, "red"], value]), 422, detail, location)


def test_a_row_too_far_away_is_named(several: httpx.Client) -> None:
    answer = table(several, "elbo", [[1, "red"], [1e200, "red"]])
    assert_problem(answer, 422, "too far from the training data for a finite bound", "instances[1]")


def test_what_a_bundle_has_no_graph_for(several: httpx.Client) -> None:
    assert_problem(table(several, "elbo", [[1, "red"]], explain=True), 422, "no graph that explains", "query.explain")
    assert_problem(table(several, "decode", [[1, 1]], draw=True), 422, "no graph to draw", "query.draw")


def test_a_table_is_no_picture(several: httpx.Client) -> None:
    answer = several.get("/models/people/sample", headers={"Accept": PNG})
    assert_problem(answer, 406, f"the answers are {JSON}, {NPY}, {ARROW}$", "header.Accept")
    assert len(several.get("/models/people/sample").json()["instances"]) == 16


# Arrow and pictures


def arrow(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def post_arrow(client: httpx.Client, path: str, table: pa.Table, accept: str = ARROW) -> httpx.Response:
    headers = {"Content-Type": ARROW, "Accept": accept}
    return client.post(path, content=arrow(table), headers=headers)


def test_arrow_in_and_out(digits: httpx.Client, x: Array, z: Array) -> None:
    images = pa.table({"instances": pa.FixedShapeTensorArray.from_numpy_ndarray(x)})
    answer = post_arrow(digits, "/elbo", images).raise_for_status()
    assert answer.headers["Content-Type"] == ARROW
    read = pa.ipc.open_stream(answer.content).read_all()
    expected = ask(digits, "/elbo", x, binary=True)
    assert read.column_names == list(expected)
    assert_same({name: read.column(name).to_numpy() for name in expected}, expected)

    latents = pa.table({"latents": pa.FixedSizeListArray.from_arrays(pa.array(z.ravel()), z.shape[1])})
    decoded = pa.ipc.open_stream(post_arrow(digits, "/decode", latents).raise_for_status().content).read_all()
    pixels = np.array(decoded.column("instances").to_pylist(), np.float32)
    np.testing.assert_array_equal(pixels, ask(digits, "/decode", z, binary=True)["instances"])


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
    assert_problem(age, 422, "must be a number, not a string", "instances[0].age")
    colour = post_arrow(several, path, pa.table({"age": [1.0, 2.0], "colour": ["red", "mauve"]}))
    assert_problem(colour, 422, "'mauve' is not a known category", "instances[1].colour")
    assert_problem(post_arrow(several, path, pa.table({"age": [1.0]})), 422, "is absent", "instances[0].colour")
    pixels = pa.table({"instances": pa.array([[[0.0] * 8] * 8, [[0.0] * 8] * 7 + [[99.0] * 8]])})
    assert_problem(post_arrow(digits, "/elbo", pixels), 422, "99 is outside", "instances[1][7][0]")
    answer = digits.post("/elbo", content=b"no stream", headers={"Content-Type": ARROW})
    assert_problem(answer, 400, "not a readable Arrow stream", None)


def test_a_picture_is_an_instance(digits: httpx.Client, x: Array, z: Array) -> None:
    buffer = io.BytesIO()
    Image.fromarray(x[0]).save(buffer, "png")
    answer = digits.post("/elbo", content=buffer.getvalue(), headers={"Content-Type": PNG, "Accept": NPY})
    assert_same(columns(answer), ask(digits, "/elbo", x[:1], binary=True))
    white = io.BytesIO()
    Image.new("L", (8, 8), 255).save(white, "jpeg")
    refused = digits.post("/elbo", content=white.getvalue(), headers={"Content-Type": "image/jpeg"})
    assert_problem(refused, 422, "255 is outside", "instances[0][0][0]")
    wide = io.BytesIO()
    Image.new("L", (9, 8)).save(wide, "png")
    refused = digits.post("/elbo", content=wide.getvalue(), headers={"Content-Type": PNG})
    assert_problem(refused, 422, "must have 8 values, not 9", "instances[0][0]")
    latent = digits.post("/decode", content=buffer.getvalue(), headers={"Content-Type": PNG})
    assert_problem(latent, 415, f"bodies of '{PNG}' are not read", "header.Content-Type")


# Starting


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--default-model", "faces"), "no model 'faces'; there are digits"),
        (
            ("--port", "99999", "--lanes", "0"),
            "port: Input should be less than or equal to 65535; lanes: Input should be greater than or equal to 1",
        ),
    ],
)
def test_wrong_settings_are_named(refused: Refused, arguments: tuple[str, ...], named: str) -> None:
    process = refused(*arguments)
    assert process.returncode == 1
    assert process.stderr.startswith("lowerbound does not start: ")
    assert process.stderr.endswith(f"{named}\n")
    assert process.stderr.count("\n") == 1


def test_cuda_is_refused_where_there_is_none(refused: Refused, digits_bundle: Bundle) -> None:
    problem = None
    try:
        OnnxEngine(digits_bundle.manifest.graphs, digits_bundle.files, "cuda")
    except DeviceError as error:
        problem = str(error)
    if problem is None:
        pytest.skip("CUDA works here")
    process = refused("--device", "cuda")
    assert process.returncode == 1
    assert process.stderr == f"lowerbound does not start: {problem}\n"
    assert problem.startswith("device=cuda cannot be used: ")


# At the end


def test_the_service_is_still_healthy(digits: httpx.Client, several: httpx.Client, small: httpx.Client) -> None:
    for client in (digits, several, small):
        assert client.get("/health/ready").json() == {"status": "ready"}
        assert client.get("/models/digits/model").json()["golden_error"] <= 1
