"""`/model`, `/models` and `/health`: what is served, and how paths find it."""

import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.bundle import Bundle
from tests.conftest import Serve
from tests.service.http_client import NPY, PNG, PROBLEM, Array, assert_problem, post


def test_the_model_describes_itself(digits: httpx.Client, digits_bundle: Bundle) -> None:
    answer = digits.get("/model").raise_for_status().json()
    assert answer["manifest"] == json.loads(digits_bundle.manifest.model_dump_json())
    assert answer["bundle"] == digits_bundle.digest
    assert answer["device"] in {"cpu", "cuda"}
    assert answer["precision"] == "float32"
    assert answer["refused_precisions"] == {}
    assert 0 <= answer["golden_error"] <= 1
    assert digits.get("/models").json() == {"models": {"digits": [1]}, "default": "digits", "refused": {}}


def test_the_model_says_how_held_out_scores_lie(digits: httpx.Client, digits_bundle: Bundle) -> None:
    held_out = digits.get("/model").json()["held_out"]
    assert held_out.keys() == set(digits_bundle.manifest.scores)
    for score, percentiles in held_out.items():
        scores = digits_bundle.calibration[score]
        assert len(percentiles) == 101
        assert (percentiles[0], percentiles[50], percentiles[100]) == (scores[0], np.median(scores), scores[-1])
        np.testing.assert_allclose(percentiles, np.percentile(scores, range(101)), rtol=1e-12)


def test_the_card_is_a_page_in_which_nothing_runs(digits: httpx.Client, digits_bundle: Bundle) -> None:
    for prefix in ("", "/models/digits", "/models/digits/versions/1"):
        answer = digits.get(f"{prefix}/model/card")
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers["Lowerbound-Bundle"] == digits_bundle.digest
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; img-src data:; style-src")
        assert answer.content == digits_bundle.files["card/index.html"]


def test_a_bundle_without_a_card_says_so(several: httpx.Client) -> None:
    assert_problem(several.get("/models/people/model/card"), 404, "people 1 has no model card", None)


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
    assert several.get("/models").json() == {
        "models": {"digits": [1, 2], "people": [1]},
        "default": None,
        "refused": {},
    }


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
