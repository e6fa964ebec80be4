"""`POST /encode`: from instances to the approximate posterior over their latents."""

from typing import Annotated

from fastapi import Query, Request, Response

from service.api.content import choose_writer, read_body, respond
from service.api.endpoint import Operation
from service.api.openapi import ServedModel
from service.api.schemas import EncodeAnswer, EncodeQuery, Instances
from service.codecs.instances import parse_instances


async def encode(request: Request, model: ServedModel, query: Annotated[EncodeQuery, Query()]) -> Response:
    """The posterior q(z|x) of each instance: its mean and log-variance, and draws from it on request."""
    writer = choose_writer(request)
    model.check_room()
    values = await read_body(request, "instances")
    x = parse_instances(values, model.manifest.input, ignore_extra=query.extra == "ignore")
    return respond(model, writer, await model.encode(x, query.num_draws, query.seed))


OPERATION = Operation("POST", "/encode", encode, EncodeAnswer, Instances)
