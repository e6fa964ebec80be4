"""The watchdog: it detects an engine that hangs, fails or answers wrongly, and replaces it.

The bundle's golden rows take the way of all rows, through the queue to the engine that serves. An engine is lost if
the golden rows do not come back in time, or come back wrong, or if any call takes longer than the limit. The watchdog
then makes another engine of the bundle's bytes and tries it. If that fails too, the process ends, and its supervisor
starts another: memory, driver or device may be at fault. It ends at once: an orderly end may hang with the device.
"""

import asyncio
import contextlib
import logging
import math
import os
from collections.abc import Callable

from service.bundle import Bundle
from service.engine import Engine, golden_error, verify_golden
from service.inference.batcher import Batcher
from service.inference.jobs import Work
from service.threads import in_thread

ATTEMPTS = 3
"""Tries to make an engine, and engines that hang for good, before the process ends."""

PAUSE = 1.0
"""Seconds more to wait before each further attempt to make an engine."""

PATIENCE = 60.0
"""Seconds that an engine may take to be made and tried; where it takes longer, the device hangs."""

GOLDEN = "golden"
"""The key of the works that find out how the engine does."""

EXIT_STATUS = 70
"""Of a process that ends because it has no engine: EX_SOFTWARE of sysexits.h."""

logger = logging.getLogger("service")

MakeEngine = Callable[[Bundle], Engine]


class Watchdog:
    """Keeps a batcher on an engine that answers as the bundle says. Start it on the batcher's loop.

    Args:
        bundle: Whose golden rows are computed.
        batcher: What computes them.
        make_engine: Makes an engine from the bundle.
        limit: Seconds that an engine call, and the golden rows, may take; looks are half as far apart.
        notify: Told whether the engine answers as it should, at the start and when that changes, and how many were
            replaced by then.

    Attributes:
        replaced: Engines that were replaced.
    """

    def __init__(
        self,
        bundle: Bundle,
        batcher: Batcher,
        make_engine: MakeEngine,
        limit: float,
        notify: Callable[[bool, int], None],
    ) -> None:
        self.replaced = 0
        self._bundle = bundle
        self._name = bundle.manifest.title
        self._batcher = batcher
        self._make_engine = make_engine
        self._limit = limit
        self._notify = notify
        self._wanted = asyncio.Event()
        self._sound = asyncio.Event()
        self._sound.set()

    def start(self) -> None:
        """Begin to look; by now the engine has been tried."""
        self._notify(True, self.replaced)
        self._next = asyncio.get_running_loop().create_future()
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Look no more; who waits for a look learns that nothing is known."""
        self._watching.cancel()
        await asyncio.wait([self._watching])
        del self._watching  # A cancelled task keeps the frames that it ended in, and they this object.
        if not self._next.done():
            self._next.set_result(math.inf)
        self._sound.set()

    async def check(self) -> float:
        """The golden error of the engine that serves, found by a look that begins now; see `golden_error`.

        Infinite where there is no answer in time, or another engine is just being made.
        """
        if not self._sound.is_set():
            return math.inf
        self._wanted.set()
        return await asyncio.shield(self._next)

    async def has_replaced(self, engine: Engine) -> bool:
        """Whether an engine serves no more; one that is known to be lost does not when this returns."""
        await self._sound.wait()
        return self._batcher.engine is not engine

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limit / 2):
                    await self._wanted.wait()
            self._wanted.clear()
            found, self._next = self._next, asyncio.get_running_loop().create_future()
            error = math.inf
            try:
                error = await self._golden_error()
                if not error <= 1:
                    self._sound.clear()
            finally:
                found.set_result(error)
            if not error <= 1:
                logger.error("%s: the engine is lost; its golden error is %g", self._name, error)
                self._notify(False, self.replaced)
                self._next.set_result(error)  # Who came during this look need not wait for another engine to know.
                self._next = asyncio.get_running_loop().create_future()
                await self._replace()
                self._sound.set()
                self._notify(True, self.replaced)

    async def _golden_error(self) -> float:
        if (seconds := self._batcher.longest_call()) > self._limit:
            logger.error("%s: an engine call takes %.1f seconds already", self._name, seconds)
            return math.inf
        golden = self._bundle.golden["elbo"]
        work = Work("elbo", {"x": golden["x"]}, {"noise": golden["noise"]}, GOLDEN, len(golden["noise"]))
        try:
            async with asyncio.timeout(self._limit):
                return golden_error(await self._batcher.submit(work, first=True), self._bundle)
        except Exception:
            logger.exception("%s: the golden rows are not answered", self._name)
            return math.inf

    async def _replace(self) -> None:
        for attempt in range(ATTEMPTS):
            await asyncio.sleep(attempt * PAUSE)
            try:
                engine = await in_thread(self._make, PATIENCE)
            except Exception as error:
                logger.exception("%s: no engine can be made in place of the lost one", self._name)
                if isinstance(error, TimeoutError):
                    break
                continue
            self._batcher.replace(engine)
            self.replaced += 1
            logger.warning("%s: another engine serves, on %s", self._name, engine.device)
            if self._batcher.hung() < ATTEMPTS:
                return
            break
        logger.critical("%s: there is no engine that serves; the process ends", self._name)
        logging.shutdown()
        os._exit(EXIT_STATUS)

    def _make(self) -> Engine:
        engine = self._make_engine(self._bundle)
        verify_golden(engine, self._bundle)
        return engine
