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


def test_answers_take_no_more_memory_together_than_one_may(digits_bundle: Bundle) -> None:
    """Or a hundred clients that ask for many pictures each would get what one may not."""
    engine = FaultyEngine(digits_bundle)
    size = 4 * (digits_bundle.manifest.latent_size + 64)
    limits = Limits(64, 1000, 64, engine_threads=1, engine_timeout=30, max_answer=50 * size)
    model = Model(digits_bundle, lambda _: engine, limits)

    async def main() -> None:
        model.start()
        engine.fault = "wait"
        first = asyncio.create_task(model.sample(40))
        assert await asyncio.to_thread(engine.hanging.acquire, timeout=30)
        with pytest.raises(OverloadedError, match="800 row-draws are queued, 1,000 at most"):
            await model.sample(11)
        fits = asyncio.create_task(model.sample(10))
        await asyncio.sleep(0)
        engine.fault = ""
        engine.hold.set()
        assert [len((await task)["instances"]) for task in (first, fits)] == [40, 10]
        await model.stop()

    asyncio.run(main())
