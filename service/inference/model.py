"""A served model: the four operations, from checked arrays to named columns."""

import functools
import math
from collections.abc import Awaitable, Callable
from typing import ParamSpec

import numpy as np

from service.bundle import Array, Bundle, TabularInput
from service.engine import Engine, verify_golden
from service.errors import InvalidError, NotReadyError
from service.inference.batcher import Batcher
from service.inference.bounds import Bounds, Columns
from service.inference.jobs import Report, Work
from service.inference.limits import Limits
from service.inference.observer import Observer
from service.inference.use import Use
from service.inference.watchdog import GOLDEN, MakeEngine, Watchdog
from service.readers import possible_rows
from service.scoring import ElboQuery, blank, chosen_seed, discoveries, noise, resolve_parameters
from service.threads import aside

P = ParamSpec("P")

DEFAULT_QUERY = ElboQuery()


class Model:
    """A bundle on an engine, behind a batcher, with a watchdog. Start it on the event loop that will use it.

    Attributes:
        in_use: Entered by each request, which keeps the model from stopping until the request is answered.

    Raises:
        BundleError: The engine's answer to the golden rows is not the bundle's.
    """

    def __init__(
        self, bundle: Bundle, make_engine: MakeEngine, limits: Limits, observe: Callable[[Bundle], Observer] = Observer
    ) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        limits = limits.of(math.prod(self.manifest.input.shape), self.manifest.num_draws)
        self._limits = limits
        decoder = self.manifest.graphs["decoder"]
        self._latent_bytes, self._instance_bytes = (t.row_bytes for t in (*decoder.inputs, *decoder.outputs))
        engine = make_engine(bundle)
        verify_golden(engine, bundle)
        noise.base_samples(0, 1, 1)  # Loads scipy, for a second, before the first request for other draws does.
        self._observer = observe(bundle)
        self._batcher = Batcher(
            engine,
            max_batch=limits.max_batch,
            max_queue=limits.max_queue,
            engine_threads=limits.engine_threads,
            observe=functools.partial(_notify, self._observer),
        )
        self._watchdog = Watchdog(bundle, self._batcher, make_engine, limits.engine_timeout, self._observer.watched)
        self._bounds = Bounds(bundle, self._batcher, limits.max_batch)
        # A cache of a function of the bundle, not of a method: in a circle the model would outlast its last use.
        self._resolve = functools.lru_cache(maxsize=256)(functools.partial(resolve_parameters, bundle))
        self.in_use = Use()

    @property
    def engine(self) -> Engine:
        """The engine that serves."""
        return self._batcher.engine

    @property
    def admitted(self) -> int:
        """Row-draws of the requests under way: what is queued, and what is computed."""
        return self._batcher.admitted

    @property
    def replaced_engines(self) -> int:
        """Engines that were lost, and replaced."""
        return self._watchdog.replaced

    def start(self) -> None:
        """Begin to compute."""
        self._batcher.start()
        self._watchdog.start()

    async def stop(self) -> None:
        """Stop computing, and refuse the requests that still wait."""
        await self._watchdog.stop()
        await self._batcher.stop(self._limits.engine_timeout)

    async def golden_error(self) -> float:
        """See `engine.golden_error`: computed now, as requests are. An engine that fails is infinitely off."""
        with self.in_use:
            return await self._watchdog.check()

    async def check(self) -> None:
        """Compute the golden rows now.

        Raises:
            NotReadyError: The answer is not the bundle's, or does not come in time.
        """
        error = await self.golden_error()
        if not error <= 1:
            raise NotReadyError(f"{self.manifest.title}: the golden ELBOs are {error:.3g} times the tolerance away")

    def check_room(self, draws: int = 1) -> None:
        """Refuse a request, before its rows are read, where there is not room for one of them with so many draws.

        Raises:
            OverloadedError: There is none.
        """
        self._batcher.check_room(draws)

    async def encode(self, x: Array, num_draws: int = 0, seed: int | None = None) -> dict[str, Array]:
        """The posterior of each row: `mean` and `log_variance` (batch, L), and `draws` (batch, num_draws, L) if any.

        All are NaN in a row that is too far from all data for a finite posterior.
        """
        place = "query.num_draws" if num_draws else "instances"
        self._limits.check(len(x), max(num_draws, 1), place)
        cost = self._limits.answer_cost(len(x), (2 + num_draws) * self._latent_bytes, place)

        answer = await self._compute(cost, self._encode, x)
        if num_draws:
            epsilon = await self._bounds.base_samples(chosen_seed(self.bundle, seed), num_draws)

            def draw() -> Array:
                deviation = np.exp(0.5 * answer["log_variance"])
                draws: Array = answer["mean"][:, None] + deviation[:, None] * epsilon
                return draws

            answer["draws"] = await aside(len(x) * epsilon.size, draw)
        return answer

    async def decode(self, z: Array) -> Array:
        """E[x|z] in data units, shape (batch, *input.shape)."""
        self._limits.check(len(z), 1, "latents")
        cost = self._limits.answer_cost(len(z), self._instance_bytes, "latents")
        return (await self._compute(cost, self._decode, z))["x_mean"]

    async def draw(self, z: Array, seed: int | None = None) -> Array:
        """One draw from p(x|z) for each row of z, in data units, shape (batch, *input.shape).

        A table's draws are rows that could exist, see `possible_rows`.
        """
        if "draw" not in self.manifest.graphs:
            raise InvalidError("this bundle has no graph to draw from p(x|z)", "query.draw")
        self._limits.check(len(z), 1, "latents")
        cost = self._limits.answer_cost(len(z), self._instance_bytes, "latents")
        return (await self._compute(cost, self._draw, z, chosen_seed(self.bundle, seed)))["x"]

    async def sample(self, n: int, seed: int | None = None, temperature: float = 1.0) -> dict[str, Array]:
        """`latents` (n, L) from the prior, spread by `temperature`, and the `instances` decoded from them.

        A table's instances are rows that could exist, see `possible_rows`.
        Of a prior with components each keeps its centre, and the temperature is that of the spread around it.
        """
        self._limits.check(n, 1, "query.n")
        cost = self._limits.answer_cost(n, self._latent_bytes + self._instance_bytes, "query.n")
        return await self._compute(cost, self._sample, n, chosen_seed(self.bundle, seed), temperature)

    async def _possible(self, x: Array) -> Array:
        data = self.manifest.input
        return await aside(x.size, lambda: possible_rows(x, data)) if isinstance(data, TabularInput) else x

    async def elbo(self, x: Array, query: ElboQuery = DEFAULT_QUERY) -> dict[str, Array]:
        """The bounds of each row, its score and its conformal p-value, each of shape (batch,), float64.

        The p-value is NaN where it would not be valid: under draws, a seed or steps of refinement other than those of
        the calibration, for a score that this bundle does not calibrate, or for a row with missing cells that no
        held-out rows compare with, see `service.scoring.missing_cells`. `refine` adds `regret`, and has the bounds
        at the best posterior found in so many steps; `explain` adds `feature_log_likelihood` (batch, *input.shape) and
        `latent_kl` (batch, L), which add up to the encoder's own `log_likelihood` and `kl`, and for tables
        `feature_surprise` and `feature_expected` (batch, D), see `service.scoring.attribution`; `fdr` adds `discovery`.
        Rows scored as the held-out rows were are told to the observer, unless `observe` is false.

        In a row that is too far from all data for finite bounds all are NaN but the p-value, which is the smallest.

        Raises:
            InvalidError: The bundle cannot do what is asked.
        """
        parameters = self._resolve(query.num_draws, query.seed, query.score, query.refine, explain=query.explain)
        draws = parameters.draws
        cells = x.shape[1] if parameters.by_cell else 0
        cost = len(x) * draws * (1 + parameters.refine + cells)
        most = self._limits.max_draws
        if cost > self._limits.max_queue or (most is not None and draws > most):
            check = functools.partial(self._limits.check, len(x), draws)
            check("query.num_draws" if query.num_draws else "instances")
            check("query.refine", 1 + parameters.refine, f"with {parameters.refine:,} steps of refinement")
            refined = f", with {parameters.refine:,} steps of refinement" if parameters.refine else ""
            times = 1 + parameters.refine + cells
            check("query.explain", times, f"once whole{refined} and once for each of {cells:,} cells")
        if query.fdr is not None and parameters.held_out is None:
            raise InvalidError(
                "without valid p-values no false-discovery rate can be kept: ask for a calibrated score, with the "
                "bundle's own draws, seed and refinement",
                "query.fdr",
            )
        if query.explain:
            size = sum(tensor.row_bytes for tensor in self.manifest.graphs["explain"].outputs)
            cost = max(cost, self._limits.answer_cost(len(x), size, "query.explain"))
        columns = await self._compute(cost, self._bounds.compute, x, parameters)
        if parameters.default and query.observe:
            self._observer.scored(columns["elbo"], columns["score"], columns["p_value"])
        if query.fdr is not None:
            columns["discovery"] = discoveries(columns["p_value"], query.fdr)
        return columns

    async def _compute(
        self, cost: int, operation: Callable[P, Awaitable[Columns]], *args: P.args, **kwargs: P.kwargs
    ) -> Columns:
        """Run the operation on one engine, and once more if that engine is lost meanwhile.

        A failure, or a score or posterior mean that is not finite, is the engine's or the rows' doing: the golden rows
        say which.
        """
        with self._batcher.admit(cost):
            engine = self.engine
            try:
                answer = await operation(*args, **kwargs)
            except Exception:
                await self._watchdog.check()
                if not await self._watchdog.has_replaced(engine):
                    raise
            else:
                telling = answer.get("score", answer.get("mean"))
                if telling is not None and np.count_nonzero(np.isfinite(telling)) < telling.size:
                    await self._watchdog.check()
                if not await self._watchdog.has_replaced(engine):
                    return answer
            return await operation(*args, **kwargs)

    async def _encode(self, x: Array) -> Columns:
        posterior = await self._batcher.submit(Work("encoder", {"x": x}))
        return blank(posterior, np.isfinite(np.hstack(list(posterior.values()))).all(axis=1))

    async def _decode(self, z: Array) -> Columns:
        return await self._batcher.submit(Work("decoder", {"z": z}))

    async def _draw(self, z: Array, seed: int) -> Columns:
        shape = (len(z), math.prod(self.manifest.input.shape))
        random = await aside(
            shape[0] * shape[1],
            lambda: {"normal": noise.standard_normal(seed, shape, 1), "uniform": noise.uniform(seed, shape, 2)},
        )
        return {"x": await self._possible((await self._batcher.submit(Work("draw", {"z": z, **random})))["x"])}

    async def _sample(self, n: int, seed: int, temperature: float) -> Columns:
        shape = (n, self.manifest.latent_size)
        random = await aside(
            n * shape[1],
            lambda: {
                "normal": (temperature * noise.standard_normal(seed, shape)).astype(np.float32),
                "uniform": noise.uniform(seed, (n, 1), 1),
            },
        )
        latents = random["normal"]
        if "prior" in self.manifest.graphs:
            latents = (await self._batcher.submit(Work("prior", random)))["z"]
        return {"latents": latents, "instances": await self._possible((await self._decode(latents))["x_mean"])}

    @property
    def max_rows(self) -> int:
        """Most rows that a request may have, with one draw each."""
        return self._limits.max_queue


def _notify(observer: Observer, report: Report) -> None:
    if report.key != GOLDEN or report.failed:
        observer.computed(report)
