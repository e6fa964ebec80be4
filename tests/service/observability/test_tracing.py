"""Every request is a span in its caller's trace, sent to a real receiver of OTLP; without one nothing is."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from service.api.auth import ENVIRONMENT
from tests.conftest import run_server, wait_until
from tests.service.observability.test_logs import SPAN, TRACE, lines

ONE = {"instances": [[[0] * 8] * 8]}
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
"""Milliseconds between two sendings."""


@dataclass
class Collector:
    """A receiver of OTLP over HTTP, and what it has received."""

    url: str
    spans: list[tuple[str, Span]] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)

    def named(self, name: str) -> list[Span]:
        return [span for _, span in self.spans if span.name == name]

    def wait_for(self, name: str, number: int = 1) -> list[Span]:
        wait_until(lambda: len(self.named(name)) >= number, 10)
        return self.named(name)


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
            found.headers.append(self.headers)
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                (service,) = [a.value.string_value for a in group.resource.attributes if a.key == "service.name"]
                found.spans += [(service, span) for scope in group.scope_spans for span in scope.spans]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def attributes(span: Span) -> dict[str, Any]:
    return {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in span.attributes}


def test_a_request_is_a_span_of_its_caller_s_trace(collector: Collector, tmp_path: Path) -> None:
    log = tmp_path / "log"
    flags = ("--device", "cpu", "--log-format", "json", "--access-log", "--otlp-endpoint", f"{collector.url}/")
    begun = time.time_ns()
    with run_server(*flags, log=log, **SOON) as client:
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=1,b=2", "X-Request-ID": "mine"}
        client.post("/elbo", json=ONE, headers=headers).raise_for_status()
        (span,) = collector.wait_for("POST /elbo")
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (TRACE, SPAN, "a=1,b=2")
    assert span.kind == Span.SPAN_KIND_SERVER
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert begun < span.start_time_unix_nano < span.end_time_unix_nano < time.time_ns()
    assert attributes(span) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/elbo",
        "lowerbound.model": "digits",
        "lowerbound.request_id": "mine",
        "lowerbound.rows": 1,
        "url.path": "/elbo",
        "url.scheme": "http",
    }
    (line,) = [line for line in lines(log) if line.get("route") == "/elbo"]
    assert (line["trace_id"], line["span_id"]) == (TRACE, span.span_id.hex())
    assert line["duration_seconds"] <= (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def test_whoever_has_no_trace_begins_one(collector: Collector, tmp_path: Path) -> None:
    with run_server("--otlp-endpoint", collector.url, log=tmp_path / "log", **SOON) as client:
        for traceparent in ("", "00-x-y-01", f"00-{'0' * 32}-{SPAN}-01"):
            client.post("/models/digits/elbo", json=ONE, headers={"traceparent": traceparent}).raise_for_status()
        spans = collector.wait_for("POST /models/{name}/elbo", 3)
    assert len({span.trace_id for span in spans}) == 3
    assert {span.parent_span_id for span in spans} == {b""}


def test_what_fails_says_so(collector: Collector, tmp_path: Path) -> None:
    keys = {ENVIRONMENT: "a-key-of-some-length"}
    with run_server("--otlp-endpoint", collector.url, log=tmp_path / "log", **SOON, **keys) as c:
        assert c.post("/elbo", json=ONE).status_code == 401
        headers = {"Authorization": f"Bearer {keys[ENVIRONMENT]}"}
        assert c.get("/no/such/page", headers=headers).status_code == 404
        rows = {"instances": ONE["instances"] * 2000}
        assert c.post("/elbo?num_draws=64&timeout=0.001", json=rows, headers=headers).status_code == 504
        (late,) = collector.wait_for("POST /elbo")
        closed, absent = [*collector.wait_for("POST"), *collector.wait_for("GET")]
    found = [(attributes(span)["http.response.status_code"], span.status.code) for span in (closed, absent, late)]
    assert found == [(401, Status.STATUS_CODE_UNSET), (404, Status.STATUS_CODE_UNSET), (504, Status.STATUS_CODE_ERROR)]


def test_the_end_sends_what_is_left_and_the_caller_decides_whether(collector: Collector, tmp_path: Path) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-token=secret",
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
        "OTEL_SERVICE_NAME": "scores",
    }
    with run_server(log=tmp_path / "log", **variables) as client:
        for flags, path in (("01", "/elbo"), ("00", "/encode")):
            headers = {"traceparent": f"00-{TRACE}-{SPAN}-{flags}"}
            client.post(path, json=ONE, headers=headers).raise_for_status()
        assert not collector.spans
    assert len(collector.named("POST /elbo")) == 1
    assert collector.named("POST /encode") == []
    assert {service for service, _ in collector.spans} == {"scores"}
    assert {headers["x-token"] for headers in collector.headers} == {"secret"}


@pytest.mark.slow
def test_every_worker_sends_its_own(collector: Collector, tmp_path: Path) -> None:
    with run_server("--workers", "2", "--otlp-endpoint", collector.url, log=tmp_path / "log", **SOON) as client:
        for _ in range(20):
            httpx.get(f"{client.base_url}/model").raise_for_status()  # On a connection of its own.
        spans = collector.wait_for("GET /model", 20)
    assert len({span.span_id for span in spans}) == 20


@pytest.mark.slow
def test_nobody_waits_for_a_collector_that_is_away(tmp_path: Path) -> None:
    with run_server("--otlp-endpoint", "http://127.0.0.1:9", log=tmp_path / "log", **SOON) as client:
        asked = time.monotonic()
        for _ in range(20):
            client.post("/elbo", json=ONE).raise_for_status()
        assert time.monotonic() - asked < 5
        ended = time.monotonic()
    assert time.monotonic() - ended < 10


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:4318", None])
def test_without_the_extra_no_spans_are_promised(endpoint: str | None) -> None:
    """In a process where the extra's packages cannot be imported."""
    code = "import runpy, sys; sys.modules['opentelemetry.sdk'] = None; sys.argv[0] = 'service'; "
    code += "import service.api.app; print('imported'); " + (
        "runpy.run_module('service', run_name='__main__')" if endpoint else ""
    )
    flags = ["--otlp-endpoint", endpoint] if endpoint else []
    done = subprocess.run(
        [sys.executable, "-c", code, *flags, "--port", "0"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "imported\n"
    assert done.returncode == (1 if endpoint else 0)
    if endpoint:
        assert done.stderr.startswith(f"error: no spans can be sent to {endpoint}: ")
        assert "pip install 'lowerbound[otlp]'" in done.stderr


def test_an_endpoint_is_an_address(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "--otlp-endpoint", "collector:4318"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "otlp_endpoint: String should match pattern" in done.stderr
