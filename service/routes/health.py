"""`GET /health/live` and `/health/ready`: the process answers; every engine still gives the right answer."""

import asyncio

from fastapi import APIRouter, Request

from service.errors import NotReadyError
from service.routes.description import problems
from service.schemas import Health

router = APIRouter(prefix="/health")


@router.get("/live")
async def live() -> Health:
    """The process answers. Costs nothing."""
    return Health(status="live")


@router.get("/ready", responses=problems(NotReadyError))
async def ready(request: Request) -> Health:
    """Every model's engine answers its golden rows as the bundle says. Costs one small engine call per model."""
    await asyncio.gather(*(model.check() for model in request.app.state.repository.catalogue))
    return Health(status="ready")
