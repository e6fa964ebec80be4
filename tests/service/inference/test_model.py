"""A served model, called without HTTP: on an engine that can be held up."""

import asyncio

import numpy as np
import pytest

from service.bundle import Bundle
from service.errors import OverloadedError
from service.inference import Limits, Model
from service.scoring import ElboQuery
from tests.service.faulty_engine import FaultyEngine


def test_a_refinement_is_admitted_with_all_its_steps(digits_bundle: Bundle) -> None:
    engine = FaultyEngine(digits_bundle)
    limits = Limits(max_batch=64, max_queue=1000, max_draws=64, engine_threads=1, engine_timeout=30)
    model = Model(digits_bundle, lambda _: engine, limits)
    x = digits_bundle.golden["elbo"]["x"][:1]

    async def main() -> None:
        model.start()
        engine.fault = "wait"
        refinement = asyncio.create_task(model.elbo(x, ElboQuery(num_draws=16, refine=50)))
        assert await asyncio.to_thread(engine.hanging.acquire, timeout=30)
        with pytest.raises(OverloadedError, match="816 row-draws are queued, 1,000 at most"):
            await model.elbo(x, ElboQuery(num_draws=16, refine=11))
        fits = asyncio.create_task(model.elbo(x, ElboQuery(num_draws=16, refine=10)))
        await asyncio.sleep(0)
        engine.fault = ""
        engine.hold.set()
        assert np.all((await refinement)["regret"] >= (await fits)["regret"])
        await model.stop()

    asyncio.run(main())
