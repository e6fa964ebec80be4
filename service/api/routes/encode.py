"""`POST /encode`: from instances to the approximate posterior over their latents."""

from typing import Annotated

import numpy as np
from fastapi import Query

from service.api.content import choose_writer, read_rows, render
from service.api.endpoint import Answer, Operation, PresentRequest
from service.api.openapi import ServedModel
from service.api.schemas import EncodeAnswer, EncodeQuery, Instances
from service.codecs.rows import Reading


async def encode(request: PresentRequest, model: ServedModel, query: Annotated[EncodeQuery, Query()]) -> Answer:
    """The posterior q(z|x) of each instance: its mean and log-variance, and draws from it on request."""
    writer = choose_writer(request)
    model.check_room()
    rows = await read_rows(request, model, Reading.asked(query))
    posterior = await model.encode(rows.x, query.num_draws, query.seed)
    return await render(request, model, writer, posterior, rows, np.isnan(posterior["mean"][:, 0]), query.fields)


OPERATION = Operation("POST", "/encode", encode, EncodeAnswer, Instances)
