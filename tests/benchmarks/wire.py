"""Bytes of a row in every wire format, in requests to `/elbo` and in their answers, and how fast one core reads them.

    .venv/test/bin/python -m tests.benchmarks.wire

Rows of random levels of 28×28 pixels, whole or in [0, 1], and of a table of 20 numbers with four decimals, in requests
of one row and of 64. Reading is what the service does with a body before it computes, a look at every value
included; the median of several requests. Answers have the eight fields of `/elbo`, and are the embedded model's.
"""

import asyncio
import io
import platform
import statistics
import time
from collections.abc import Callable

import httpx
import numpy as np
import orjson
import tritonclient.http as triton  # type: ignore[import-untyped]

from service.api.app import create_app
from service.bundle import Array, ImageInput, NumericColumn, TabularInput
from service.codecs.arrow import write_stream
from service.codecs.codec import Reader
from service.codecs.instances import parse_rows
from service.codecs.json import Json
from service.codecs.npy import Npy
from service.codecs.oip import datatype, read_request
from service.codecs.registry import Arrow
from service.codecs.rows import Reading
from service.settings import Settings

MANY = 64
STRICT = Reading()
REPEATS = 301

LEVELS = ImageInput(shape=(28, 28), dtype="uint8", low=0, high=255)
SHARES = ImageInput(shape=(28, 28), dtype="float32", low=0, high=1)
TABLE = TabularInput(columns=tuple(NumericColumn(name=f"x{i}") for i in range(20)))

Request = tuple[bytes, Callable[[], object]]
"""A body, and what reads it."""


def rows(kind: ImageInput | TabularInput, number: int) -> Array:
    """Random ones."""
    generator = np.random.default_rng(0)
    if kind is LEVELS:
        return generator.integers(0, 256, (number, 28, 28), np.uint8)
    if kind is SHARES:
        return generator.random((number, 28, 28), np.float32)
    return generator.normal(size=(number, 20)).round(4)


def _by(codec: Reader, body: bytes) -> Request:
    return body, lambda: codec.decode(body, "instances")


def _json(x: Array) -> Request:
    return _by(Json(), orjson.dumps({"instances": x}, option=orjson.OPT_SERIALIZE_NUMPY))


def _records(x: Array) -> Request:
    records = [{f"x{i}": value for i, value in enumerate(row)} for row in x.tolist()]
    return _by(Json(), orjson.dumps({"instances": records}))


def _npy(x: Array) -> Request:
    buffer = io.BytesIO()
    np.save(buffer, x, allow_pickle=False)
    return _by(Npy(), buffer.getvalue())


def _arrow(x: Array) -> Request:
    columns = {"instances": x} if x.ndim > 2 else {f"x{i}": column for i, column in enumerate(x.T)}
    return _by(Arrow(), write_stream(columns))


def _v2(x: Array) -> Request:
    sent = triton.InferInput("x", list(x.shape), datatype(x.dtype.name)).set_data_from_numpy(x)
    body, length = triton.InferenceServerClient.generate_request_body([sent])
    return body, lambda: read_request(body, length).inputs["x"]


FORMATS: dict[str, Callable[[Array], Request]] = {
    "JSON": _json,
    "JSON, records": _records,
    ".npy": _npy,
    "Arrow": _arrow,
    "/v2, binary": _v2,
}


def seconds(read: Callable[[], object], kind: ImageInput | TabularInput) -> float:
    """Median time in which a body becomes a graph's input."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        parse_rows(read(), kind, STRICT)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


async def answers() -> dict[str, list[int]]:
    """By format, bytes of an answer for one row and of one for many."""
    app = create_app(Settings())
    found: dict[str, list[int]] = {}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://wire") as client,
    ):
        for number in (1, MANY):
            x = np.random.default_rng(0).integers(0, 17, (number, 8, 8), np.uint8)
            for name, codec in (("JSON", Json), (".npy", Npy), ("Arrow", Arrow)):
                headers = {"Content-Type": Npy.media_type, "Accept": codec.media_type}
                answer = await client.post("/elbo", content=_npy(x)[0], headers=headers)
                found.setdefault(name, []).append(len(answer.raise_for_status().content))
            headers = {"Inference-Header-Content-Length": "0"}
            answer = await client.post("/v2/models/digits/infer", content=x.tobytes(), headers=headers)
            found.setdefault("/v2, binary", []).append(len(answer.raise_for_status().content))
    return found


def main() -> None:
    """Print the tables."""
    print(f"one core, {platform.machine()}, Python {platform.python_version()}")
    print(f"| | bytes of one row alone | of a row among {MANY} | to read it, µs |")
    print("|---|---:|---:|---:|")
    for title, kind in (("784 levels", LEVELS), ("784 floats", SHARES), ("20 columns", TABLE)):
        for name, request in FORMATS.items():
            if name == "JSON, records" and kind is not TABLE:
                continue
            (alone, _), (body, read) = request(rows(kind, 1)), request(rows(kind, MANY))
            each = seconds(read, kind) / MANY * 1e6
            print(f"| {title}, {name} | {len(alone):,} | {len(body) / MANY:,.0f} | {each:,.2f} |", flush=True)
    print(f"| answer of /elbo | bytes of one row alone | of a row among {MANY} |")
    print("|---|---:|---:|")
    for name, (one, many) in asyncio.run(answers()).items():
        print(f"| {name} | {one:,} | {many / MANY:,.0f} |")


if __name__ == "__main__":
    main()
