"""`GET /metrics`: what has been counted and timed, for Prometheus."""

from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from service.api.openapi import problems
from service.errors import UnauthorizedError
from service.observability.metrics import Telemetry
from service.threads import in_thread

router = APIRouter()


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={
        200: {"content": {"application/openmetrics-text": {"schema": {"type": "string"}}}},
        **problems(UnauthorizedError),
    },
)
async def metrics(request: Request) -> Response:
    """The metrics of all processes, in Prometheus's text format, or in OpenMetrics's where `Accept` asks for that."""
    telemetry: Telemetry = request.app.state.telemetry
    telemetry.flush()
    models = list(request.app.state.loader.registry)
    text, media_type = await in_thread(partial(telemetry.scrape, request.headers.get("accept", ""), models))
    return Response(text, headers={"Content-Type": media_type})
