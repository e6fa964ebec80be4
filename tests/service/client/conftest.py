"""A served table, and a client of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from lowerbound import Client

from tests.conftest import Serve

RECORDS: list[dict[str, Any]] = [
    {"age": 1.5, "colour": "red"},
    {"age": None, "colour": "blue"},
    {"age": -3.0, "colour": None},
    {"age": 4.0, "colour": "blue"},
]


@pytest.fixture(scope="module")
def people(serve: Serve, explaining_table: Path) -> Iterator[str]:
    with serve("--models", str(explaining_table.parents[1])) as client:
        yield str(client.base_url)


@pytest.fixture(scope="module")
def client(people: str) -> Iterator[Client]:
    with Client(people, model="people") as client:
        yield client


@pytest.fixture(scope="module")
def expected(people: str) -> dict[str, list[float]]:
    answer = httpx.post(f"{people}/models/people/elbo", json={"instances": RECORDS}).raise_for_status()
    columns: dict[str, list[float]] = answer.json()
    return columns
