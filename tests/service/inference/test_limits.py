"""Limits of the work of a model, by the size of its rows."""

from dataclasses import replace

import pytest

from service.errors import TooLargeError
from service.inference.limits import Limits


def limits(max_batch: int, max_draws: int | None) -> Limits:
    return Limits(max_batch=max_batch, max_queue=2**18, max_draws=max_draws, engine_threads=1, engine_timeout=30)


@pytest.mark.parametrize(
    ("values", "own_draws", "batch", "draws"),
    [
        (64, 16, 512, 4096),
        (28 * 28, 16, 512, 2674),
        (32 * 32 * 3, 16, 512, 682),
        (64 * 64 * 3, 16, 170, 170),
        (256 * 256 * 3, 16, 16, 16),
        (256 * 256 * 3, 1, 10, 10),
    ],
)
def test_an_engine_call_has_a_limit_of_memory(values: int, own_draws: int, batch: int, draws: int) -> None:
    """One row of 4,096 draws of a picture of 32 × 32 took three gigabytes."""
    found = limits(512, None).of(values, own_draws)
    assert (found.max_batch, found.max_draws) == (batch, draws)
    found.check(1, draws, "query.num_draws")
    with pytest.raises(TooLargeError, match=f"at most {draws:,} are made"):
        found.check(1, draws + 1, "query.num_draws")


def test_an_operator_may_allow_more_draws() -> None:
    found = limits(512, 5000).of(64 * 64 * 3, 16)
    assert (found.max_batch, found.max_draws) == (170, 5000)


def test_a_request_may_ask_for_as_many_draws_as_wait_at_most() -> None:
    found = limits(512, None)
    found.check(2**10, 2**6, "instances", times=4)
    with pytest.raises(TooLargeError, match=r"1,025 rows × 64 draws.*: send at most 1,024 rows"):
        found.check(2**10 + 1, 2**6, "instances", times=4)
    with pytest.raises(TooLargeError, match="ask for at most 65,536 draws"):
        found.check(1, 2**16 + 1, "query.num_draws", times=4)


def test_an_answer_may_have_as_many_bytes_as_said() -> None:
    found = replace(limits(512, None), max_answer=2**20)
    assert found.answer_cost(2**10, 2**10, "latents") == 2**18
    assert found.answer_cost(1, 2**30, "latents") == 2**28  # One row is never too many.
    with pytest.raises(TooLargeError, match="ask for at most 1,024 rows"):
        found.answer_cost(2**10 + 1, 2**10, "latents")
