"""One exchange with a server, as a client sees it: an array in, columns, a picture or a problem out."""

import io
import json
import re
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

Array = npt.NDArray[Any]
NPY = "application/x-npy"
ARROW = "application/vnd.apache.arrow.stream"
CSV = "text/csv"
PNG = "image/png"
JSON = "application/json"
PROBLEM = "application/problem+json"


def npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def arrow(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def post(
    client: httpx.Client, path: str, array: Array, accept: str = JSON, *, binary: bool = False, **query: Any
) -> httpx.Response:
    """Post an array as JSON or .npy."""
    field = "latents" if path.endswith("decode") else "instances"
    content = npy(array) if binary else json.dumps({field: array.tolist()}).encode()
    headers = {"Content-Type": NPY if binary else JSON, "Accept": accept}
    return client.post(path, params=query, content=content, headers=headers)


def send_request(
    client: httpx.Client, path: str, array: Array, *, binary: bool = False, **query: Any
) -> dict[str, Array]:
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


def table(client: httpx.Client, path: str, values: Sequence[Any], **query: Any) -> httpx.Response:
    field = "latents" if path == "decode" else "instances"
    body = json.dumps({field: values})  # Unlike httpx, escapes what is not ASCII.
    return client.post(f"/models/people/{path}", content=body, params=query)
