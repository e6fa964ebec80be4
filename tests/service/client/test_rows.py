"""`lowerbound.Client` takes rows of every kind, and answers in the same."""

import datetime as dt
import json
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from lowerbound import (
    Client,
    InvalidError,
)
from lowerbound.rows import read_rows

from tests.service.client.conftest import RECORDS


def test_records_give_records(client: Client, expected: dict[str, list[float]]) -> None:
    numbers = [RECORDS[0] | {"age": np.float64(1.5)}, RECORDS[1] | {"age": float("nan")}, *RECORDS[2:]]
    answer = client.score(numbers)
    assert [row["elbo"] for row in answer] == expected["elbo"]
    assert answer == client.score(RECORDS[:2]) + client.score(RECORDS[2:])


def test_pandas_frames_keep_their_index(client: Client, expected: dict[str, list[float]]) -> None:
    frame = pd.DataFrame(RECORDS, index=pd.Index(["a", "b", "c", "d"], name="id"))
    frame["colour"] = frame["colour"].astype("category")
    frame["note"] = "ignored"
    answer = client.score(frame, explain=True)
    assert answer.index.equals(frame.index)
    assert answer["elbo"].tolist() == expected["elbo"]
    assert answer["feature_log_likelihood.age"].tolist()[0] == pytest.approx(-2.25)
    assert client.encode(frame)["mean"].map(len).tolist() == [2, 2, 2, 2]


def test_long_whole_numbers_stay_beside_missing_ones() -> None:
    frame = read_rows(pd.DataFrame(RECORDS[:2])).same_kind(pa.table({"id": [2**53 + 1, None]}))
    assert frame["id"].tolist() == [2**53 + 1, None]


def test_polars_arrow_and_arrays_give_their_own_kind(client: Client, expected: dict[str, list[float]]) -> None:
    polars = client.score(pl.DataFrame(RECORDS))
    assert isinstance(polars, pl.DataFrame)
    assert polars["elbo"].to_list() == expected["elbo"]
    arrow = client.score(pa.Table.from_pylist(RECORDS))
    assert isinstance(arrow, pa.Table)
    assert arrow["elbo"].to_pylist() == expected["elbo"]
    codes = np.array([[1.5, 0.0], [np.nan, 1.0], [-3.0, np.nan], [4.0, 1.0]])
    arrays = client.score(codes)
    assert arrays["elbo"].tolist() == expected["elbo"]
    assert client.encode(codes)["mean"].shape == (4, 2)


def test_columns_that_are_not_the_models_may_hold_anything(client: Client, expected: dict[str, list[float]]) -> None:
    frame = pd.DataFrame(RECORDS).assign(note=[1, "two", None, b"3"], z=1j)
    assert client.score(frame)["elbo"].tolist() == expected["elbo"]
    assert len(client.encode(frame)) == 4
    with pytest.raises(InvalidError, match="column note"):
        client.score(frame, extra="error")
    with pytest.raises(InvalidError, match="column age"):
        client.score(frame.assign(age=[1, "two", 3, 4]))


def test_cells_of_records_go_as_they_are_read() -> None:
    row = {
        "nanoseconds": np.datetime64("2026-01-05T13:04:00.5", "ns"),
        "day": np.datetime64("2026-01-05"),
        "no time": np.datetime64("NaT"),
        "times": np.array(["2026-01-05"], "datetime64[us]"),
        "minutes": dt.timedelta(minutes=2),
        "lapse": np.timedelta64(1500, "ms"),
        "no lapse": np.timedelta64("NaT"),
        "missing": pd.NA,
        "count": np.uint64(2**63),
        "long": np.longdouble(0.5),
        "longs": np.array([0.5], np.longdouble),
    }
    assert json.loads(read_rows([row]).encode([row]))["instances"] == [
        {
            "nanoseconds": "2026-01-05T13:04:00.500000000",
            "day": "2026-01-05",
            "no time": "NaT",
            "times": ["2026-01-05T00:00:00.000000"],
            "minutes": 120.0,
            "lapse": 1.5,
            "no lapse": None,
            "missing": None,
            "count": 2**63,
            "long": 0.5,
            "longs": [0.5],
        }
    ]


def test_arrays_with_fields_are_rows_of_columns(client: Client, expected: dict[str, list[float]]) -> None:
    frame = pd.DataFrame(RECORDS)
    answer = client.score(frame.to_records(index=False))
    np.testing.assert_array_equal(answer["elbo"], expected["elbo"])
    numbers = np.array([(1.5, "red")], [("age", "f8"), ("colour", "U4")])
    assert client.score(numbers)["elbo"] == expected["elbo"][:1]
    more = np.array([(1.5, "red", 2**64)], [("age", "O"), ("colour", "O"), ("more", "O")])
    assert client.score(more)["elbo"] == expected["elbo"][:1]


def test_arrays_of_numbers_and_texts(client: Client, expected: dict[str, list[float]]) -> None:
    answer = client.score(pd.DataFrame(RECORDS).to_numpy())
    assert answer["elbo"].tolist() == expected["elbo"]


@pytest.mark.parametrize("rows", [pd.Series([1.5]), pl.Series([1.5]), pl.DataFrame(RECORDS).lazy(), {"age": [1.5]}])
def test_what_is_no_rows_is_refused_by_its_type(client: Client, rows: Any) -> None:
    with pytest.raises(TypeError, match=f"rows of type {type(rows).__name__}: give a pandas or Polars frame"):
        client.score(rows)


def test_latents_of_every_kind_are_decoded(client: Client) -> None:
    z = np.array([[1.0, -1.0], [2.0, 1.0]], np.float32)
    assert client.decode(z)["age"].tolist() == [1.0, 2.0]
    assert client.decode(z.tolist())[0] == {"age": 1.0, "colour": "red"}
    frame = client.decode(pd.DataFrame(z, index=[7, 8]))
    assert frame["colour"].to_dict() == {7: "red", 8: "blue"}
    assert client.decode(pl.DataFrame(z))["age"].to_list() == [1.0, 2.0]
    sampled = client.sample(3, seed=1)
    assert {name: values.shape for name, values in sampled.items()} == {"latents": (3, 2), "age": (3,), "colour": (3,)}
    assert client.model()["manifest"]["name"] == "people"
