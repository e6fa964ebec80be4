"""A process beside the event loop: it answers, fails, is ended and is started again, and the loop goes on meanwhile."""

import asyncio
import os
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from service.codecs.child import ChildProcess, LongBytes, in_pieces
from service.errors import InvalidError, NotReadyError, TooLargeError

MEBIBYTE = 2**20


def with_child(scenario: Callable[[ChildProcess], Awaitable[None]]) -> None:
    async def main() -> None:
        child = ChildProcess(256 * MEBIBYTE)
        try:
            await asyncio.wait_for(scenario(child), 60)
        finally:
            child.stop()

    asyncio.run(main())


def take(mebibytes: int) -> int:
    return len(bytes(bytearray(b"a") * (mebibytes * MEBIBYTE)))


def refuse() -> None:
    raise InvalidError("is wrong", "instances[3]")


def test_bytes_arrays_and_errors_come_back_as_they_are() -> None:
    async def scenario(child: ChildProcess) -> None:
        assert await child.run(bytes.upper, b"a" * MEBIBYTE) == b"A" * MEBIBYTE
        long = LongBytes([bytearray(b"a" * 3), bytearray(b"a" * (MEBIBYTE - 3))])
        assert await child.run(bytes.upper, long) == (await long.copied()).upper() == b"A" * MEBIBYTE
        np.testing.assert_array_equal(await child.run(np.negative, np.arange(9)), -np.arange(9))
        with pytest.raises(InvalidError, match=r"^instances\[3\]: is wrong$") as caught:
            await child.run(refuse)
        assert (caught.value.detail, caught.value.location) == ("is wrong", "instances[3]")

    with_child(scenario)


def test_the_loop_goes_on_and_a_function_that_nobody_waits_for_is_ended() -> None:
    async def scenario(child: ChildProcess) -> None:
        await child.run(len, b"")
        forever = asyncio.create_task(child.run(pow, 3, 10**9))
        for _ in range(10):
            await asyncio.sleep(0.01)
        assert not forever.done()
        forever.cancel()
        assert await child.run(len, b"abc") == 3  # By another process.

    with_child(scenario)


def test_memory_has_a_limit_and_a_dead_process_is_replaced() -> None:
    async def scenario(child: ChildProcess) -> None:
        assert await child.run(take, 16) == 16 * MEBIBYTE
        with pytest.raises(TooLargeError, match="takes more than 268,435,456 bytes of memory"):
            await child.run(take, 512)
        running = asyncio.create_task(child.run(time.sleep, 30))
        await asyncio.sleep(0.2)
        child.stop()
        with pytest.raises(NotReadyError, match="has ended; try again"):
            await running
        assert await child.run(take, 1) == MEBIBYTE

    with_child(scenario)


def test_the_operator_may_have_set_a_lower_limit_of_memory() -> None:
    code = """
import asyncio, resource
from service.codecs.child import ChildProcess
resource.setrlimit(resource.RLIMIT_DATA, (2**31, 2**31))
async def main() -> None:
    child = ChildProcess(2**32)
    print(await child.run(len, b"abc"))
    child.stop()
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_the_kernel_ends_the_process_before_the_service() -> None:
    async def scenario(child: ChildProcess) -> None:
        assert await child.run(Path.read_text, Path("/proc/self/oom_score_adj")) == "1000\n"

    with_child(scenario)


def test_a_process_that_cannot_be_started_is_told() -> None:
    async def scenario(child: ChildProcess) -> None:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        for more in (0, 2):  # The socket's, and those of the pipe by which the process starts.
            resource.setrlimit(resource.RLIMIT_NOFILE, (first_free() + more, before[1]))
            try:
                with pytest.raises(NotReadyError, match="no process can be started"):
                    await child.run(len, b"abc")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert await child.run(len, b"abc") == 3

    with_child(scenario)


def first_free() -> int:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor


def test_an_answer_comes_in_pieces_where_that_is_asked() -> None:
    async def scenario(child: ChildProcess) -> None:
        pieces = await child.run(in_pieces, bytes.upper, b"a" * MEBIBYTE + b"b")
        assert [len(piece) for piece in pieces] == [2**18] * 4 + [1]
        assert b"".join(pieces) == b"A" * MEBIBYTE + b"B"

    with_child(scenario)
