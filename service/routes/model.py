"""`GET /model` and `GET /models`: what is being served."""

import asyncio
import math

from fastapi import APIRouter, Request, Response

from service.errors import InvalidError, NotFoundError, UnauthorizedError
from service.exchange import identify
from service.routes.description import ServedModel, problems
from service.schemas import ModelAnswer, ModelsAnswer

router = APIRouter()
index = APIRouter()


@router.get("/model", responses=problems(UnauthorizedError, NotFoundError, InvalidError))
async def show(model: ServedModel, response: Response) -> ModelAnswer:
    """The manifest, the device in use, and how the engine answers the bundle's golden rows right now."""
    response.headers.update(identify(model))
    error = await asyncio.to_thread(model.golden_error)
    return ModelAnswer(
        manifest=model.manifest,
        bundle=model.bundle.digest,
        device=model.engine.device,
        golden_error=error if math.isfinite(error) else None,
    )


@index.get("/models", responses=problems(UnauthorizedError))
async def list_models(request: Request) -> ModelsAnswer:
    """The served versions of every model, oldest first."""
    return ModelsAnswer(models=request.app.state.repository.names())
