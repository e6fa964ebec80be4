"""`GET /model` and `GET /models`: what is being served."""

import math

from fastapi import APIRouter, Request, Response

from service.catalogue import Catalogue
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
    error = await model.golden_error()
    return ModelAnswer(
        manifest=model.manifest,
        bundle=model.bundle.digest,
        device=model.engine.device,
        golden_error=error if math.isfinite(error) else None,
        replaced_engines=model.replaced_engines,
    )


@index.get("/models", responses=problems(UnauthorizedError))
async def list_models(request: Request) -> ModelsAnswer:
    """The served versions of every model, and those that are refused."""
    catalogue: Catalogue = request.app.state.repository.catalogue
    return ModelsAnswer(models=catalogue.names(), refused=catalogue.refused)
