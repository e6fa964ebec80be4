"""`GET /model`, `GET /model/card` and `GET /models`: what is being served."""

import math

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from service.api.browsers import page_headers
from service.api.content import identify
from service.api.openapi import ServedModel, problems
from service.api.schemas import ModelAnswer, ModelsAnswer
from service.errors import InvalidError, NotFoundError, UnauthorizedError
from service.inference import ModelRegistry
from service.scoring import percentiles

CARD = "card/index.html"

router = APIRouter()
index = APIRouter()


@router.get("/model", responses=problems(UnauthorizedError, NotFoundError, InvalidError))
async def show(model: ServedModel, response: Response) -> ModelAnswer:
    """The manifest, the device in use, and how the engine answers the bundle's golden rows right now."""
    response.headers.update(identify(model))
    error = await model.golden_error()
    return ModelAnswer(
        manifest=model.manifest,
        held_out={score: percentiles(model.bundle.calibration[score]) for score in model.manifest.scores},
        bundle=model.bundle.digest,
        device=model.engine.device,
        precision=model.engine.precision,
        refused_precisions={precision: _number(missed) for precision, missed in model.engine.refused.items()},
        golden_error=_number(error),
        replaced_engines=model.replaced_engines,
    )


@router.get(
    "/model/card", response_class=HTMLResponse, responses=problems(UnauthorizedError, NotFoundError, InvalidError)
)
async def card(model: ServedModel) -> HTMLResponse:
    """The model card for people, where the bundle has one: a page of its own, in which nothing runs."""
    page = model.bundle.files.get(CARD)
    if page is None:
        raise NotFoundError(f"{model.manifest.title} has no model card")
    headers = page_headers("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    return HTMLResponse(page, headers=headers | identify(model))


def _number(error: float) -> float | None:
    return error if math.isfinite(error) else None


@index.get("/models", responses=problems(UnauthorizedError))
async def list_models(request: Request) -> ModelsAnswer:
    """The served versions of every model, and the refused ones."""
    registry: ModelRegistry = request.app.state.loader.registry
    return ModelsAnswer(models=registry.names(), default=registry.default, refused=registry.refused)
