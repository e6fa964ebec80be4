"""`POST /decode`: from latents to instances."""

from typing import Annotated

from fastapi import Query

from service.api.content import choose_writer, picture_type, read_latents, render
from service.api.endpoint import Answer, Operation, PresentRequest
from service.api.openapi import ServedModel
from service.api.schemas import DecodeAnswer, DecodeQuery, Latents


async def decode(request: PresentRequest, model: ServedModel, query: Annotated[DecodeQuery, Query()]) -> Answer:
    """The expectation of x given each z, in data units, or one draw from p(x|z)."""
    writer = choose_writer(request, *picture_type(model))
    model.check_room()
    z = await read_latents(request, model)
    x = await (model.draw(z, query.seed) if query.draw else model.decode(z))
    return await render(request, model, writer, {"instances": x}, fields=query.fields)


OPERATION = Operation("POST", "/decode", decode, DecodeAnswer, Latents, media_types=["image/png"])
