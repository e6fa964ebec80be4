"""`POST /encode`: from instances to the approximate posterior over their latents."""

from typing import Annotated

from fastapi import Query, Request, Response

from service.exchange import choose_writer, read_body, respond
from service.instances import parse_instances
from service.routes.description import ServedModel
from service.routes.operation import Operation
from service.schemas import EncodeAnswer, EncodeQuery, Instances


async def encode(request: Request, model: ServedModel, query: Annotated[EncodeQuery, Query()]) -> Response:
    """The posterior q(z|x) of each instance: its mean and log-variance, and draws from it on request."""
    writer = choose_writer(request)
    model.check_room()
    values = await read_body(request, "instances")
    x = parse_instances(values, model.manifest.input, ignore_extra=query.extra == "ignore")
    return respond(model, writer, await model.encode(x, query.num_draws, query.seed))


OPERATION = Operation("POST", "/encode", encode, EncodeAnswer, Instances)
