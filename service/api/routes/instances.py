"""`POST /instances`: from a body of any kind to the instances that the service reads in it."""

from typing import Annotated

import numpy as np
from fastapi import Query

from service.api.content import choose_writer, picture_type, read_rows, render
from service.api.endpoint import Answer, Operation, PresentRequest
from service.api.openapi import ServedModel
from service.api.schemas import Instances, InstancesAnswer
from service.codecs.rows import Reading
from service.scoring import RowsQuery


async def instances(request: PresentRequest, model: ServedModel, query: Annotated[RowsQuery, Query()]) -> Answer:
    """The instances in the body as the model takes them, for example the pixels of a picture file after resizing."""
    writer = choose_writer(request, *picture_type(model))
    rows = await read_rows(request, model, Reading.asked(query))
    return await render(request, model, writer, {"instances": rows.x}, rows, np.zeros(len(rows.x), bool), query.fields)


OPERATION = Operation("POST", "/instances", instances, InstancesAnswer, Instances, media_types=["image/png"])
