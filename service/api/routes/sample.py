"""`GET /sample`: instances out of nothing."""

from typing import Annotated

from fastapi import Query

from service.api.content import choose_writer, picture_type, render
from service.api.endpoint import Answer, Operation, PresentRequest
from service.api.openapi import ServedModel
from service.api.schemas import SampleAnswer, SampleQuery


async def sample(request: PresentRequest, model: ServedModel, query: Annotated[SampleQuery, Query()]) -> Answer:
    """Latents from the prior and the expectation of x given each; as `image/png`, the pictures side by side."""
    writer = choose_writer(request, *picture_type(model))
    columns = await model.sample(query.n, query.seed, query.temperature)
    return await render(request, model, writer, columns, fields=query.fields)


OPERATION = Operation("GET", "/sample", sample, SampleAnswer, media_types=["image/png"])
