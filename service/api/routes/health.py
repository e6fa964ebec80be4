"""`GET /health/live` and `/health/ready`: the process answers; every engine still gives the right answer."""

from fastapi import APIRouter, Request

from service.api.openapi import check_ready, problems
from service.api.schemas import Health
from service.errors import NotReadyError

router = APIRouter(prefix="/health")


@router.get("/live")
async def live() -> Health:
    """The process answers. Costs nothing."""
    return Health(status="live")


@router.get("/ready", responses=problems(NotReadyError))
async def ready(request: Request) -> Health:
    """Every model's engine answers its golden rows as the bundle says. Costs one small engine call per model."""
    await check_ready(request)
    return Health(status="ready")
