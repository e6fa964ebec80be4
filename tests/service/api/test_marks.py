"""Rows that cannot be scored, over HTTP: with `on_error=mark` each is marked, and the others answer as without it."""

import io
import json
import math
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.service.http_client import ARROW, JSON, NPY, PNG, Array, assert_problem, npy, table

GOOD = [{"age": 1.5, "colour": "blue"}, {"age": None, "colour": "red"}, {"age": -3, "colour": None}]
FAR = {"age": 1e200, "colour": "red"}
TOO_FAR = "too far from the training data for a finite bound"
UNSEEN = "instances[{}].colour: 'green' is not a known category; known are 'red', 'blue'"


def send_request(client: httpx.Client, path: str, rows: list[Any], **query: Any) -> dict[str, list[Any]]:
    answer = table(client, path, rows, **query)
    assert answer.status_code == 200, answer.text
    document: dict[str, list[Any]] = answer.json()
    return document


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
broken_rows = st.one_of(
    json_values.filter(lambda value: not isinstance(value, dict | list)),
    st.lists(json_values, max_size=4),
    st.fixed_dictionaries({"age": json_values, "colour": json_values}),
    st.sampled_from([FAR, {"age": 1}, {"age": 10**400, "colour": "red"}, {"age": 1, "colour": "green"}]),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@example(row=[0, 0], place=0, unseen="error")
@example(row=[0, 2**60], place=0, unseen="error")
@given(row=broken_rows, place=st.integers(0, len(GOOD)), unseen=st.sampled_from(["error", "mark", "missing"]))
def test_whatever_is_wrong_with_a_row_the_others_answer_as_without_it(
    several: httpx.Client, row: Any, place: int, unseen: str
) -> None:
    rows = [*GOOD[:place], row, *GOOD[place:]]
    for path in ("elbo", "encode"):
        expected = send_request(several, path, GOOD)
        marked = send_request(several, path, rows, on_error="mark", unseen=unseen)
        problems = marked.pop("problem")
        (problem,) = problems[place : place + 1]
        assert problem is None or problem.startswith(f"instances[{place}]")
        assert problems[:place] + problems[place + 1 :] == [None] * len(GOOD)
        assert {name: values[:place] + values[place + 1 :] for name, values in marked.items()} == expected
        alone = table(several, path, [row], unseen="missing" if unseen == "mark" else unseen)
        if alone.status_code == 200:
            assert problem is None or unseen == "mark"
            assert {name: values[place : place + 1] for name, values in marked.items()} == alone.json()
        else:
            assert alone.json()["detail"][:100] in problem
            left = {name: values[place] for name, values in marked.items() if name != "p_value"}
            assert all(value in (None, [None, None]) for value in left.values())


def test_a_row_too_far_away_is_the_strangest(several: httpx.Client) -> None:
    answer = send_request(several, "elbo", [*GOOD, FAR], on_error="mark", fdr=0.9)
    assert answer["problem"] == [None] * 3 + [f"instances[3]: {TOO_FAR}"]
    manifest = several.get("/models/people/model").json()["manifest"]
    assert answer["p_value"][3] == manifest["calibration"]["resolution"]
    assert answer["p_value"][3] <= min(p for p in answer["p_value"] if p is not None)
    assert answer["elbo"][3] is answer["score"][3] is None
    assert_problem(table(several, "elbo", [*GOOD, FAR]), 422, TOO_FAR, "instances[3]")
    uncalibrated = send_request(several, "elbo", [FAR], on_error="mark", seed=5)
    assert (uncalibrated["score"], uncalibrated["p_value"]) == ([None], [None])


def test_an_unseen_category_is_scored_without_or_not(several: httpx.Client) -> None:
    rows = [*GOOD, {"age": 2, "colour": "green"}]
    without = send_request(several, "elbo", [*GOOD, {"age": 2, "colour": None}])
    assert_problem(table(several, "elbo", rows), 422, "'green' is not a known category", "instances[3].colour")
    assert_problem(table(several, "elbo", rows, unseen="error"), 422, "not a known", "instances[3].colour")
    assert send_request(several, "elbo", rows, unseen="missing") == without
    assert send_request(several, "elbo", rows, unseen="missing", on_error="mark") == without | {"problem": [None] * 4}
    marked = without | {"problem": [None] * 3 + [UNSEEN.format(3) + "; scored without it"]}
    assert (
        send_request(several, "elbo", rows, on_error="mark")
        == send_request(several, "elbo", rows, unseen="mark")
        == marked
    )
    left_out = send_request(several, "elbo", rows, on_error="mark", unseen="error")
    assert left_out["problem"][3] == UNSEEN.format(3)
    assert left_out["elbo"] == [*without["elbo"][:3], None]
    assert_problem(table(several, "elbo", [*rows, [1]], unseen="mark"), 422, "must have 2 values", "instances[4]")


def test_all_rows_may_be_marked(several: httpx.Client) -> None:
    answer = send_request(several, "elbo", [[1], "row"], on_error="mark", fdr=0.5)
    assert answer["problem"][0] == "instances[0]: must have 2 values, not 1"
    assert answer["discovery"] == [False, False]
    assert all(values == [None, None] for name, values in answer.items() if name not in {"problem", "discovery"})
    odd = send_request(several, "elbo", [[1, "\ud800"], [1, "x" * 10**5]], on_error="mark")
    assert odd["problem"][0].startswith("instances[0].colour: '\\ud800' is not a known category")
    assert len(odd["problem"][1]) < 500
    surrogates = send_request(several, "elbo", [["\ud800", "\ud800"]] * 100, on_error="mark")
    assert surrogates["problem"][99] == "instances[99].age: '\\\\ud800' is not a number"


def test_what_is_wrong_with_the_whole_request_still_fails_it(several: httpx.Client) -> None:
    for content, status in ((b"{", 400), (b'{"instances": []}', 422), (b'{"rows": [[1, "red"]]}', 422)):
        answer = several.post("/models/people/elbo", params={"on_error": "mark"}, content=content)
        assert answer.status_code == status
    narrow = several.post(
        "/models/people/elbo", params={"on_error": "mark"}, content=npy(np.zeros((3, 1))), headers={"Content-Type": NPY}
    )
    assert_problem(narrow, 422, "must have 2 values, not 1", r"instances[0]")


def test_every_format_says_the_same(several: httpx.Client) -> None:
    rows = np.array([[1.5, 1], [np.inf, 0], [1, 7], [-3, np.nan], [1e200, 0]])

    def post(accept: str, content_type: str, body: bytes) -> httpx.Response:
        headers = {"Accept": accept, "Content-Type": content_type}
        answer = several.post("/models/people/elbo", params={"on_error": "mark"}, content=body, headers=headers)
        return answer.raise_for_status()

    document = post(JSON, NPY, npy(rows)).json()
    assert document["problem"] == [
        None,
        "instances[1].age: inf is not a finite number",
        "instances[2].colour: 7.0 is not a category code, 0 to 1",
        None,
        f"instances[4]: {TOO_FAR}",
    ]
    records = np.load(io.BytesIO(post(NPY, NPY, npy(rows)).content), allow_pickle=False)
    with pa.ipc.open_stream(post(ARROW, NPY, npy(rows)).content) as stream:
        columns = stream.read_all().to_pydict()
    assert columns == document
    for name, values in document.items():
        shown = records[name].tolist()
        expected = [text or "" for text in values] if name == "problem" else values
        assert [None if isinstance(value, float) and math.isnan(value) else value for value in shown] == expected
    good = post(JSON, NPY, npy(rows[[0, 3]])).json()
    assert {name: [values[0], values[3]] for name, values in document.items()} == good


def test_refinement_and_explanations_of_the_others_are_unchanged(digits: httpx.Client, x: Array) -> None:
    pictures: list[Any] = x.tolist()
    broken = [*pictures[:2], [[99] * 8] * 8, [[0] * 8] * 7, *pictures[2:], "picture"]
    for query in ({"explain": True}, {"refine": 2}, {"score": "typicality", "fdr": 0.2}):
        expected = digits.post("/elbo", json={"instances": pictures}, params=query).json()
        marked = digits.post("/elbo", json={"instances": broken}, params={**query, "on_error": "mark"}).json()
        assert marked.pop("problem") == [
            None,
            None,
            "instances[2][0][0]: 99 is outside [0, 16]",
            "instances[3]: must have 8 values, not 7",
            *[None] * 3,
            "instances[7]: must be an array of 8 values, not a string",
        ]
        kept = [0, 1, 4, 5, 6]
        assert {name: [values[i] for i in kept] for name, values in marked.items()} == expected
    alone = digits.post("/elbo", json={"instances": ["picture"]}, params={"on_error": "mark", "fdr": 0.9})
    assert alone.headers["Lowerbound-No-Discovery"] == "no row has a p-value"


def test_a_marked_picture_is_no_black_one(digits: httpx.Client, x: Array) -> None:
    pictures = {"instances": [x[0].tolist(), "picture"]}

    def post(accept: str, **query: str) -> bytes:
        params = {"on_error": "mark", **query}
        answer = digits.post("/instances", json=pictures, params=params, headers={"Accept": accept})
        return answer.raise_for_status().content

    assert json.loads(post(JSON))["instances"] == [x[0].tolist(), [[None] * 8] * 8]
    pixels = np.load(io.BytesIO(post(NPY, fields="instances")))
    np.testing.assert_array_equal(pixels, [x[0], np.full((8, 8), np.nan)])
    with Image.open(io.BytesIO(post(PNG))) as shown:  # Which has no other colour for it.
        assert shown.size == (16, 8)
        assert shown.crop((8, 0, 16, 8)).getextrema() == (0, 0)


def test_the_open_inference_protocol_marks_where_asked(several: httpx.Client) -> None:
    path = "/v2/models/people/infer"
    rows = {"inputs": [{"name": "x", "shape": [3, 2], "datatype": "FP64", "data": [1.5, 1, 1, 7, 1e200, 0]}]}
    assert several.post(path, json=rows).status_code == 400
    marking = rows | {"parameters": {"on_error": "mark"}}
    outputs = {
        output["name"]: output for output in several.post(path, json=marking).raise_for_status().json()["outputs"]
    }
    assert outputs["problem"]["datatype"] == "BYTES"
    assert outputs["problem"]["data"] == [
        "",
        "x[1].colour: 7.0 is not a category code, 0 to 1",
        f"x[2]: {TOO_FAR}",
    ]
    assert [value is None for value in outputs["elbo"]["data"]] == [False, True, True]
    assert [value is None for value in outputs["p_value"]["data"]] == [False, True, False]
    only = marking | {"outputs": [{"name": "problem", "parameters": {"binary_data": True}}]}
    answer = several.post(path, json=only).raise_for_status()
    header = int(answer.headers["Inference-Header-Content-Length"])
    (described,) = json.loads(answer.content[:header])["outputs"]
    blob = answer.content[header:]
    assert described["parameters"]["binary_data_size"] == len(blob)
    texts = []
    while blob:
        size = int.from_bytes(blob[:4], "little")
        texts.append(blob[4 : 4 + size].decode())
        blob = blob[4 + size :]
    assert texts == outputs["problem"]["data"]
    assert several.post(path, json=rows | {"outputs": [{"name": "problem"}]}).status_code == 400


@pytest.mark.parametrize("query", [{"on_error": "skip"}, {"unseen": "ignore"}])
def test_other_values_are_refused(several: httpx.Client, query: dict[str, str]) -> None:
    assert_problem(table(several, "elbo", GOOD, **query), 422, "Input should be", f"query.{next(iter(query))}")
