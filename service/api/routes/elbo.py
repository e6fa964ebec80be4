"""`POST /elbo`: the evidence lower bound of each instance, its score and its p-value."""

from typing import Annotated

import numpy as np
from fastapi import Query

from service.api.content import choose_writer, read_rows, render
from service.api.endpoint import Answer, Operation, PresentRequest
from service.api.openapi import ServedModel
from service.api.schemas import ElboAnswer, Instances
from service.codecs.rows import Reading
from service.scoring import ElboQuery, why_none

NO_DISCOVERY = "Lowerbound-No-Discovery"


async def elbo(request: PresentRequest, model: ServedModel, query: Annotated[ElboQuery, Query()]) -> Answer:
    """Bounds on log p(x) in nats, higher is more usual; `score` and `p_value` say how strange each instance is.

    The answer to a row depends on the row, the model, `num_draws`, `seed` and `refine`, and on nothing else; but for
    `discovery`, which looks at all rows of the request.
    """
    writer = choose_writer(request)
    model.check_room(query.num_draws or model.manifest.num_draws)
    rows = await read_rows(request, model, Reading.asked(query))
    scored = len(rows.places)
    if not scored:  # The one row that is computed is none of the client's.
        query = query.model_copy(update={"observe": False})
    bounds = await model.elbo(rows.x, query)
    content, headers = await render(request, model, writer, bounds, rows, np.isnan(bounds["score"]), query.fields)
    if query.fdr is not None and not bounds["discovery"][:scored].any():
        p = bounds["p_value"][:scored]
        why = why_none(p, query.fdr, model.manifest.calibration.rows)
        headers = [*headers, (NO_DISCOVERY.lower().encode(), why.encode("latin-1"))]
    return content, headers


OPERATION = Operation(
    "POST", "/elbo", elbo, ElboAnswer, Instances, headers={NO_DISCOVERY: "With fdr, where no row is called: why."}
)
