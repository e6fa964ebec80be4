"""A table's model: records, lists and codes."""

from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from service.codecs.registry import ANSWERS
from tests.service.http_client import ARROW, NPY, PNG, assert_problem, columns, post, table


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
        ({"age": 1, "Color": "red"}, r"is absent; .*; did you mean 'Color'\?", "instances[1].colour"),
        (
            {"age": 1, "colour": "green"},
            "'green' is not a known category; known are 'red', 'blue'",
            "instances[1].colour",
        ),
        ({"age": 1, "colour": 0}, "0 is not a known category", "instances[1].colour"),
        ({"age": 1, "colour": ["red"]}, "must be one value, not an array", "instances[1].colour"),
        ({"age": "one", "colour": "red"}, "'one' is not a number", "instances[1].age"),
        ({"age": True, "colour": "red"}, "a number, not a boolean", "instances[1].age"),
        ([10**400, "red"], "too large a number", "instances[1].age"),
    ],
)
def test_wrong_rows(several: httpx.Client, value: Any, detail: str, location: str) -> None:
    assert_problem(table(several, "elbo", [[1, "red"], value]), 422, detail, location)


def test_extra_fields_are_ignored_unless_told(several: httpx.Client) -> None:
    records = [{"age": 1, "colour": "red"}, {"age": 2, "colour": "blue"}]
    more = [{"Age": i, "\ud800": None, **record} for i, record in enumerate(records)]
    arrow = arrow_stream(id=[0, 1], age=[1, 2], colour=["red", "blue"])
    for path in ("encode", "elbo"):
        expected = table(several, path, records)
        assert expected.status_code == 200
        assert table(several, path, more).content == expected.content
        assert table(several, path, more, extra="ignore").content == expected.content
        assert several.post(f"/models/people/{path}", **arrow).content == expected.content
        refused = table(several, path, [records[0], {"Age": 1, **records[1]}], extra="error")
        assert_problem(refused, 422, r"is no column of this model; did you mean 'age'\?", "instances[1].Age")
        refused = several.post(f"/models/people/{path}", params={"extra": "error"}, **arrow)
        assert_problem(refused, 422, "is no column of this model$", "instances[0].id")


def arrow_stream(**columns: Any) -> dict[str, Any]:
    sink, rows = pa.BufferOutputStream(), pa.table(columns)
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return {"content": sink.getvalue().to_pybytes(), "headers": {"Content-Type": ARROW}}


def test_an_extra_column_of_a_type_that_is_not_read_is_ignored_too(several: httpx.Client) -> None:
    expected = table(several, "elbo", [[1, "red"]])
    interval = pa.array([(1, 2, 3)], pa.month_day_nano_interval())
    extra = arrow_stream(age=[1], colour=["red"], span=interval)
    assert several.post("/models/people/elbo", **extra).content == expected.content
    wanted = several.post("/models/people/elbo", **arrow_stream(age=interval, colour=["red"]))
    detail = "must be a number, not month_day_nano_interval"
    assert_problem(wanted, 422, detail, "instances[0].age")
    category = several.post("/models/people/elbo", **arrow_stream(age=[1], colour=interval))
    assert_problem(category, 422, "must be one value, not month_day_nano_interval", "instances[0].colour")


def test_blanks_around_names_are_none_of_them(several: httpx.Client) -> None:
    expected = table(several, "elbo", [[1, "red"]])
    for record in ({"age": 1, " colour ": "red"}, {" age": 2, "age": 1, "colour\t": "red"}):
        assert table(several, "elbo", [record], extra="error").content == expected.content
    framed = several.post("/models/people/elbo", **arrow_stream(**{"age": [1], " colour": ["red"]}))
    assert framed.content == expected.content
    absent = table(several, "elbo", [{" age ": 1}])
    assert_problem(absent, 422, "is absent; send null where the value is missing", "instances[0].colour")


def test_a_row_too_far_away_is_named(several: httpx.Client) -> None:
    answer = table(several, "elbo", [[1, "red"], [1e200, "red"]])
    assert_problem(answer, 422, "too far from the training data for a finite bound", "instances[1]")


def test_what_a_bundle_has_no_graph_for(several: httpx.Client) -> None:
    assert_problem(table(several, "elbo", [[1, "red"]], explain=True), 422, "no graph that explains", "query.explain")
    assert_problem(table(several, "decode", [[1, 1]], draw=True), 422, "no graph to draw", "query.draw")


def test_a_table_is_no_picture(several: httpx.Client) -> None:
    answer = several.get("/models/people/sample", headers={"Accept": PNG})
    assert_problem(answer, 406, f"the answers are {', '.join(ANSWERS)}$", "header.Accept")
    assert len(several.get("/models/people/sample").json()["instances"]) == 16
