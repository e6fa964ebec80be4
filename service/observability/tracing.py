"""Tracing: a span of OpenTelemetry for each request, in its caller's trace, sent to a collector by OTLP over HTTP.

OpenTelemetry's SDK reads its own variables: `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`
and others. Its packages are an extra of this project: this module is imported only if spans are wanted.
"""

import contextlib
from typing import Self

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Receive, Scope, Send

from service.observability.context import REQUEST_CONTEXT
from service.threads import in_thread

PATIENCE = 5.0
"""Seconds that the last spans have to be sent in, when the service ends."""

_FIELDS = {b"traceparent", b"tracestate"}


class Spans:
    """Sends spans while it is entered, from a thread of its own; where the collector is away, they are dropped."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = f"{endpoint.rstrip('/')}/v1/traces"
        self._propagator = TraceContextTextMapPropagator()

    async def __aenter__(self) -> Self:
        named = Resource({"service.name": "lowerbound"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=Resource.create().merge(named), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(self._endpoint)))
        self._tracer = self._provider.get_tracer("lowerbound")
        return self

    async def __aexit__(self, *error: object) -> None:
        with contextlib.suppress(TimeoutError):
            await in_thread(self._provider.shutdown, PATIENCE)

    def around(self, app: ASGIApp) -> ASGIApp:
        """The application with a span around each request. Within, and so in the log, that is the caller's span."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            span = self._begin(scope)
            try:
                await app(scope, receive, send)
            finally:
                _end(span, scope["method"])

        return traced

    def _begin(self, scope: Scope) -> Span:
        given = {
            field.decode(): [value.decode("latin-1") for name, value in scope["headers"] if name == field]
            for field in _FIELDS
        }
        parent = self._propagator.extract(given)
        about = {"http.request.method": scope["method"], "url.path": scope["path"], "url.scheme": scope["scheme"]}
        span = self._tracer.start_span(scope["method"], parent, SpanKind.SERVER, about)
        own: dict[str, str] = {}
        self._propagator.inject(own, set_span_in_context(span))
        scope["headers"] = [header for header in scope["headers"] if header[0] not in _FIELDS]
        scope["headers"] += [(name.encode(), value.encode()) for name, value in own.items()]
        return span


def _end(span: Span, method: str) -> None:
    """End a span, with what the log would have of its request."""
    if context := REQUEST_CONTEXT.get(None):
        span.set_attribute("lowerbound.request_id", context.request_id.decode())
        span.set_attribute("http.response.status_code", context.status)
        if context.route:
            span.update_name(f"{method} {context.route}")
            span.set_attribute("http.route", context.route)
        if context.model:
            span.set_attribute("lowerbound.model", context.model)
        if context.rows is not None:
            span.set_attribute("lowerbound.rows", context.rows)
        if context.status >= 500:
            span.set_status(StatusCode.ERROR)
    span.end()
