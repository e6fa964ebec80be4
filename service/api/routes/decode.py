"""`POST /decode`: from latents to instances."""

from typing import Annotated

from fastapi import Query, Request, Response

from service.api.content import choose_writer, picture_type, read_body, respond
from service.api.endpoint import Operation
from service.api.openapi import ServedModel
from service.api.schemas import DecodeAnswer, DecodeQuery, Latents
from service.codecs.instances import parse_latents


async def decode(request: Request, model: ServedModel, query: Annotated[DecodeQuery, Query()]) -> Response:
    """The expectation of x given each z, in data units, or one draw from p(x|z)."""
    writer = choose_writer(request, *picture_type(model))
    model.check_room()
    z = parse_latents(await read_body(request, "latents"), model.manifest.latent_size)
    x = await (model.draw(z, query.seed) if query.draw else model.decode(z))
    return respond(model, writer, {"instances": x})


OPERATION = Operation("POST", "/decode", decode, DecodeAnswer, Latents, media_types=["image/png"])
