"""An engine that hangs, fails or answers wrongly is found and replaced; no client gets a wrong answer."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.bundle import Bundle, read_bundle, write_bundle
from service.errors import NotReadyError
from service.inference import Limits, Model
from service.inference.watchdog import ATTEMPTS, EXIT_STATUS
from service.scoring import ElboQuery
from tests import warm
from tests.conftest import run_server, samples, wait_until
from tests.service.faulty_engine import FaultyEngine
from tests.service.http_client import NPY, npy
from tests.service.toy_bundles import table_files

LIMIT = 1.0
"""Seconds; long enough for a machine that is busy with other things, too."""


class Engines:
    """Makes a model's engines, and remembers them; `faults` are those that the next ones have from the start."""

    def __init__(self, *faults: str) -> None:
        self.made: list[FaultyEngine] = []
        self.faults = list(faults)

    def __call__(self, bundle: Bundle) -> FaultyEngine:
        self.made.append(FaultyEngine(bundle, self.faults.pop(0) if self.faults else ""))
        return self.made[-1]


def with_model(
    bundle: Bundle, scenario: Callable[[Model, Engines], Coroutine[Any, Any, None]], *, engine_threads: int = 2
) -> None:
    async def main() -> None:
        engines = Engines()
        limits = Limits(
            max_batch=64, max_queue=10**6, max_draws=64, engine_threads=engine_threads, engine_timeout=LIMIT
        )
        model = Model(bundle, engines, limits)
        model.start()
        try:
            await asyncio.wait_for(scenario(model, engines), 60)
        finally:
            for engine in engines.made:
                engine.hold.set()
            await model.stop()

    asyncio.run(main())


async def until_replaced(model: Model) -> None:
    for _ in range(1000):
        if model.replaced_engines:
            return
        await asyncio.sleep(0.01)
    pytest.fail("the engine was not replaced")


@pytest.mark.parametrize("fault", ["raise", "hang", "nan"])
@pytest.mark.parametrize("refine", [0, 20])
def test_what_a_lost_engine_was_asked_the_next_one_answers(digits_bundle: Bundle, fault: str, refine: int) -> None:
    async def scenario(model: Model, engines: Engines) -> None:
        x = digits_bundle.golden["elbo"]["x"]
        expected = await model.elbo(x, ElboQuery(refine=refine))
        engines.made[0].fault = fault
        answers = await asyncio.gather(*(model.elbo(x, ElboQuery(refine=refine)) for _ in range(5)))
        for answer in answers:
            np.testing.assert_array_equal(answer["elbo"], expected["elbo"])
        assert model.replaced_engines == 1
        assert model.engine is engines.made[1]
        await model.check()

    with_model(digits_bundle, scenario)


@pytest.mark.parametrize("fault", ["hang", "wrong"])
def test_a_lost_engine_is_found_without_requests(digits_bundle: Bundle, fault: str) -> None:
    async def scenario(model: Model, engines: Engines) -> None:
        engines.made[0].fault = fault
        lost = time.monotonic()
        await until_replaced(model)
        assert time.monotonic() - lost < 2 * LIMIT + 1  # A second for making the next one.
        await model.check()

    with_model(digits_bundle, scenario)


@pytest.mark.parametrize("fault", ["raise", "hang", "nan", "wrong"])
def test_readiness_is_red_while_an_engine_is_lost(digits_bundle: Bundle, fault: str) -> None:
    async def scenario(model: Model, engines: Engines) -> None:
        await model.check()
        engines.made[0].fault = fault
        engines.faults = ["raise"]
        checks = []
        for _ in range(8):  # Before the look that finds it, and during that.
            checks.append(asyncio.create_task(model.check()))
            await asyncio.sleep(0)
        answers = await asyncio.gather(*checks, return_exceptions=True)
        assert {type(answer) for answer in answers} == {NotReadyError}
        assert not model.replaced_engines
        with pytest.raises(NotReadyError, match=r"the golden ELBOs are .* away"):  # A second engine fails, too.
            await model.check()
        await until_replaced(model)
        await model.check()
        assert len(engines.made) == 3

    with_model(digits_bundle, scenario)


def test_one_hanging_lane_of_several_is_found(digits_bundle: Bundle) -> None:
    async def scenario(model: Model, engines: Engines) -> None:
        x = digits_bundle.golden["elbo"]["x"]
        engines.made[0].fault = "hang"
        request = asyncio.create_task(model.encode(x))
        assert await asyncio.to_thread(engines.made[0].hanging.acquire, timeout=30)
        engines.made[0].fault = ""  # The golden rows find an engine thread that does not hang.
        await model.check()
        np.testing.assert_allclose((await request)["mean"], digits_bundle.golden["encoder"]["mean"], atol=1e-4)
        assert model.replaced_engines == 1

    with_model(digits_bundle, scenario)


def test_who_computes_longer_than_usual_is_let_be(digits_bundle: Bundle) -> None:
    async def scenario(model: Model, engines: Engines) -> None:
        engines.made[0].fault = "wait"
        request = asyncio.create_task(model.encode(digits_bundle.golden["elbo"]["x"]))
        await asyncio.sleep(LIMIT / 2)
        engines.made[0].fault = ""
        engines.made[0].hold.set()
        await request
        await asyncio.sleep(2 * LIMIT)
        assert model.replaced_engines == 0

    with_model(digits_bundle, scenario)


def test_rows_that_have_no_bound_are_not_the_engine_s_fault(tmp_path: Path) -> None:
    async def scenario(model: Model, engines: Engines) -> None:
        for _ in range(3):
            answer = await model.elbo(np.array([[1e200, 0.0]]))
            assert np.isnan(answer["elbo"]).all()
        assert model.replaced_engines == 0
        assert len(engines.made) == 1

    with_model(read_bundle(write_bundle(tmp_path, *table_files())), scenario)


def test_stopping_does_not_wait_for_who_hangs(digits_bundle: Bundle) -> None:
    async def main() -> None:
        engine = FaultyEngine(digits_bundle)
        limits = Limits(max_batch=64, max_queue=1000, max_draws=64, engine_threads=2, engine_timeout=LIMIT)
        model = Model(digits_bundle, lambda _: engine, limits)
        model.start()
        engine.fault = "hang"
        requests = [asyncio.create_task(model.encode(digits_bundle.golden["elbo"]["x"])) for _ in range(2)]
        assert await asyncio.to_thread(engine.hanging.acquire, timeout=30)
        started = time.monotonic()
        await model.stop()
        assert time.monotonic() - started < 2 * LIMIT
        answers = await asyncio.gather(*requests, return_exceptions=True)
        assert [type(answer) for answer in answers] == [NotReadyError] * 2
        engine.hold.set()

    asyncio.run(main())


# The process


@contextlib.contextmanager
def faulty(tmp_path: Path) -> Iterator[tuple[httpx.Client, Path]]:
    """A client of a service whose engines have the fault that a file says, and the file."""
    fault = tmp_path / "fault"
    fault.touch()
    program = ("tests.service.faulty_server", str(fault))
    arguments = ("--engine-threads", "2", "--engine-timeout", str(LIMIT))
    with run_server(*arguments, program=program, log=tmp_path / "log") as client:
        yield client, fault


def metric(client: httpx.Client, name: str) -> float:
    return samples(client.get("/metrics").text)[name, "digits", "1"]


@pytest.mark.parametrize("fault", ["hang", pytest.param("wrong", marks=pytest.mark.slow)])
def test_under_requests_an_engine_is_replaced(digits_bundle: Bundle, tmp_path: Path, fault: str) -> None:
    with faulty(tmp_path) as (client, file):
        body = npy(digits_bundle.golden["elbo"]["x"])
        headers = {"Content-Type": NPY, "Accept": NPY}

        def send_request() -> httpx.Response:
            return client.post("/elbo", content=body, headers=headers)

        right = send_request().raise_for_status().content
        stop = threading.Event()
        answers: list[httpx.Response] = []
        ready: list[tuple[float, bool]] = []
        shown: set[float] = set()

        def probe() -> None:
            while not stop.is_set():
                ready.append((time.monotonic(), client.get("/health/ready").is_success))
                shown.add(metric(client, "lowerbound_engine_ready"))

        def load() -> None:
            while not stop.is_set():
                answers.append(send_request())

        threads = [threading.Thread(target=target) for target in (probe, load, load, load)]
        for thread in threads:
            thread.start()
        lost = time.monotonic()
        # If the second engine has the fault too, it does not serve: readiness is red for long enough.
        file.write_text(f"{fault} {1 if fault == 'hang' else 2}")
        while client.get("/model").json()["replaced_engines"] < 1:
            assert time.monotonic() - lost < 30
        time.sleep(0.2)
        stop.set()
        for thread in threads:
            thread.join()
        assert {answer.status_code for answer in answers} == {200}
        if fault != "wrong":  # Only the golden rows can tell.
            assert {answer.content for answer in answers} == {right}
        assert send_request().content == right
        red = [when for when, green in ready if not green]
        assert red
        assert red[0] - lost < 2 * LIMIT + 1
        assert ready[-1][1]
        assert client.get("/model").json()["replaced_engines"] == 1
        assert shown == {0, 1}
        assert metric(client, "lowerbound_engine_ready") == metric(client, "lowerbound_engines_replaced_total") == 1


@pytest.mark.parametrize("fault", ["raise", pytest.param("hang", marks=pytest.mark.slow)])
def test_without_an_engine_the_process_ends(tmp_path: Path, fault: str) -> None:
    file, log = tmp_path / "fault", tmp_path / "log"
    file.touch()
    process = warm.start(["tests.service.faulty_server", str(file), "--engine-timeout", str(LIMIT), "--port", "0"], log)
    try:
        wait_until(lambda: b"serving digits 1" in log.read_bytes(), 60)
        file.write_text(f"{fault} 99")
        assert process.wait(timeout=60) == EXIT_STATUS
    finally:
        process.kill()
    text = log.read_text()
    assert "digits 1: there is no engine that serves; the process ends" in text
    # An engine that raises fails its first golden rows, and never serves.
    assert text.count("digits 1: another engine serves") == (ATTEMPTS if fault == "hang" else 0)
