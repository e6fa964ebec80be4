"""Every line says what request it belongs to, in JSON to be read by machines."""

import asyncio
import datetime as dt
import io
import json
import logging
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.bundle import Bundle
from service.observability.context import REQUEST_CONTEXT, RequestContext
from service.observability.logs import _Json
from tests.conftest import run_server

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def context(headers: list[tuple[bytes, bytes]]) -> RequestContext:
    async def never(*message: Any) -> None:
        raise AssertionError(message)

    return RequestContext(b"mine", {}, {"headers": headers}, never, never, asyncio.Timeout(None))


def test_every_request_has_a_line(tmp_path: Path, digits_bundle: Bundle) -> None:
    log = tmp_path / "log"
    x = digits_bundle.golden["elbo"]["x"][:2]
    with run_server("--device", "cpu", "--log-format", "json", "--access-log", log=log) as client:
        headers = {"X-Request-ID": "mine", "traceparent": f"00-{TRACE}-{SPAN}-01"}
        client.post("/elbo", json={"instances": x.tolist()}, headers=headers).raise_for_status()
        bad = client.post("/models/digits/encode", json={"instances": [1]})
        v2 = {"inputs": [{"name": "x", "datatype": "UINT8", "shape": [2, 8, 8], "data": x.ravel().tolist()}]}
        assert client.post("/v2/models/digits.encoder/infer", json=v2).status_code == 200
    written = lines(log)
    for line in written:
        assert {"timestamp", "level", "logger", "message"} <= line.keys()
        assert abs(dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(line["timestamp"])) < dt.timedelta(minutes=5)
    assert any(line["message"] == "serving digits 1 on cpu" and "request_id" not in line for line in written)
    good, refused, inferred = [line for line in written if line.get("method") == "POST"]
    assert good["logger"] == "service.access"
    expected = {"route": "/elbo", "model": "digits", "status": 200, "rows": 2, "request_id": "mine"}
    assert expected | {"trace_id": TRACE, "span_id": SPAN} == {
        key: good[key] for key in (*expected, "trace_id", "span_id")
    }
    assert 0 < good["duration_seconds"] < 60
    assert (refused["status"], refused["rows"], refused["route"]) == (422, None, "/models/{name}/encode")
    assert refused["request_id"] == bad.headers["X-Request-ID"]
    assert "trace_id" not in refused
    assert (inferred["route"], inferred["rows"]) == ("/v2/models/{name}/infer", 2)


def saved_tiff(pixels: Any, old: bytes, new: bytes) -> bytes:
    """A picture compressed by LZW, with these bytes replaced."""
    saved = io.BytesIO()
    Image.fromarray(pixels).save(saved, "tiff", compression="tiff_lzw")
    assert old in saved.getvalue()
    return saved.getvalue().replace(old, new)


def test_what_is_wrong_with_a_clients_picture_is_no_line(tmp_path: Path) -> None:
    """Pillow and libtiff write about it to standard error by themselves."""
    log = tmp_path / "log"
    damaged, many = (
        saved_tiff(np.arange(64, dtype=np.uint8).reshape(shape), old, new)
        for shape, old, new in (
            ((8, 8), b"\x80\0\0 ", b"\x80\xff\xff\xff"),  # How LZW's codes begin.
            ((4, 4, 4), struct.pack("<HHIH", 277, 3, 1, 4), struct.pack("<HHIH", 277, 3, 1, 65535)),
        )
    )
    with run_server("--device", "cpu", "--log-format", "json", log=log) as client:
        for picture in (damaged, many):
            answer = client.post("/elbo", content=picture, headers={"Content-Type": "image/tiff"})
            assert answer.status_code in {400, 422}
    assert {line["logger"] for line in lines(log)} <= {"service", "uvicorn.error"}


def test_requests_have_no_lines_unless_they_are_wanted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with run_server("--device", "cpu", "--log-level", "debug", log=log) as client:
        client.get("/model").raise_for_status()
    assert "serving digits 1 on cpu" in log.read_text()
    assert "/model" not in log.read_text()


def test_people_get_text(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with run_server("--device", "cpu", "--access-log", log=log) as client:
        client.get("/models/digits/model").raise_for_status()
    line = "INFO service.access: method=GET route=/models/{name}/model model=digits status=200 duration_seconds=0."
    assert line in log.read_text()


@pytest.mark.parametrize(
    ("headers", "traced"),
    [
        ([f"00-{TRACE}-{SPAN}-01"], True),
        ([f"00-{TRACE}-{SPAN}-00"], True),
        ([f"cc-{TRACE}-{SPAN}-01-what-comes-later"], True),
        ([f"00-{TRACE}-{SPAN}-01-what-comes-later"], False),
        ([f"ff-{TRACE}-{SPAN}-01"], False),
        ([f"00-{'0' * 32}-{SPAN}-01"], False),
        ([f"00-{TRACE}-{'0' * 16}-01"], False),
        ([f"00-{TRACE.upper()}-{SPAN}-01"], False),
        ([f"00-{TRACE}-{SPAN}"], False),
        ([f"00-{TRACE}-{SPAN}-01"] * 2, False),
        (["\xff"], False),
        ([], False),
    ],
)
def test_the_trace_is_the_callers(headers: list[str], traced: bool) -> None:
    origin = context([(b"host", b"any"), *((b"traceparent", value.encode("latin-1")) for value in headers)])
    expected = {"request_id": "mine"} | ({"trace_id": TRACE, "span_id": SPAN} if traced else {})
    assert origin.describe() == expected


def test_an_exception_is_part_of_its_line() -> None:
    token = REQUEST_CONTEXT.set(context([]))
    try:
        int("first\nsecond")
    except ValueError:
        record = logging.LogRecord("service", logging.ERROR, __file__, 1, "request %s failed", ("it",), sys.exc_info())
    text = _Json().format(record)
    REQUEST_CONTEXT.reset(token)
    assert "\n" not in text
    line = json.loads(text)
    assert (line["level"], line["message"], line["request_id"]) == ("error", "request it failed", "mine")
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith(r"invalid literal for int() with base 10: 'first\nsecond'")
