"""The room for answers: clients that are slow to take theirs give way to others."""

import asyncio
from contextlib import ExitStack

import httpx
import pytest

from service.api import budget
from service.api.budget import ByteBudget
from service.errors import OverloadedError
from tests.conftest import Serve, wait_until
from tests.service.attacks import MEBIBYTE, NPY
from tests.service.sockets import Client, port_of

SAMPLES = {"n": 20_000}
"""Of the digits, 6.4 MB as .npy."""


def test_the_slowest_of_those_that_are_late_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "GRACE", 0)

    async def main() -> list[str]:
        answers = ByteBudget(400_000, "answers")

        async def take(taken: int) -> None:
            answers.take(100_000)
            answers.watch(lambda: taken)
            await asyncio.sleep(60)

        takers = {name: asyncio.create_task(take(taken)) for name, taken in (("b", 2), ("a", 1), ("c", 3))}
        takers["fast"] = asyncio.create_task(take(2**40))
        await asyncio.sleep(0.01)
        answers.take(150_000)
        await asyncio.sleep(0)
        given_up = [name for name, task in takers.items() if task.cancelled()]
        answers.take(100_000)
        with pytest.raises(OverloadedError):
            await asyncio.create_task(take(0))
        for task in takers.values():
            task.cancel()
        await asyncio.gather(*takers.values(), return_exceptions=True)
        answers.take(0)
        assert answers._total == 250_000
        return given_up

    assert asyncio.run(main()) == ["b", "a"]


@pytest.mark.slow
def test_an_answer_that_nobody_takes_gives_way(serve: Serve) -> None:
    request = f"GET /sample?n={SAMPLES['n']} HTTP/1.1\r\nHost: localhost\r\nAccept: {NPY}\r\n\r\n".encode()
    with serve("--max-body", str(8 * MEBIBYTE), "--read-timeout", "60") as client, ExitStack() as stack:
        deaf = [stack.enter_context(Client(port_of(client), receive_buffer=4096)) for _ in range(2)]
        for one in deaf:
            one.send(request)
            one.until(b"\r\n\r\n")
        # There is no room for three.
        wait_until(lambda: sampled(client) == 200, 20)


def sampled(client: httpx.Client) -> int:
    return client.get("/sample", params=SAMPLES, headers={"Accept": NPY}).status_code
