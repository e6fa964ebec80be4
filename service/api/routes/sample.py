"""`GET /sample`: instances out of nothing."""

from typing import Annotated

from fastapi import Query, Request, Response

from service.api.content import choose_writer, picture_type, respond
from service.api.endpoint import Operation
from service.api.openapi import ServedModel
from service.api.schemas import SampleAnswer, SampleQuery


async def sample(request: Request, model: ServedModel, query: Annotated[SampleQuery, Query()]) -> Response:
    """Latents from the prior and the expectation of x given each; as `image/png`, the pictures side by side."""
    writer = choose_writer(request, *picture_type(model))
    return await respond(request, model, writer, await model.sample(query.n, query.seed, query.temperature))


OPERATION = Operation("GET", "/sample", sample, SampleAnswer, media_types=["image/png"])
