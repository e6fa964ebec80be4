"""A served model: the four operations, from checked arrays to named columns.

This module must not know about HTTP, bytes or devices.
"""

import asyncio
import functools
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from service import noise
from service.batcher import Batcher, Report, Work
from service.bundle import Array, Bundle
from service.calibration import SCORES, discoveries, p_values
from service.engine import Engine, golden_error
from service.errors import BundleError, InvalidError, NotReadyError, TooLargeError
from service.refinement import Ascent

logger = logging.getLogger("service")


@dataclass(frozen=True)
class Limits:
    """What one model may be asked to do at once; row-draws are rows × draws of the decoder.

    Attributes:
        max_batch: Most row-draws in one engine call.
        max_queue: Most row-draws waiting, and in one request.
        max_draws: Most draws for one row.
        lanes: Engine calls at once.
    """

    max_batch: int
    max_queue: int
    max_draws: int
    lanes: int


class Observer(Protocol):
    """What a model tells of its doings, on the event loop."""

    def computed(self, report: Report) -> None:
        """One engine call has ended."""

    def scored(self, elbo: Array, score: Array, p_value: Array) -> None:
        """Rows have been scored just as the held-out rows were; each argument has shape (batch,)."""


class Unobserved:
    """An observer that takes no notice."""

    def computed(self, report: Report) -> None: ...

    def scored(self, elbo: Array, score: Array, p_value: Array) -> None: ...


@dataclass(frozen=True)
class _Plan:
    """How rows get their bounds and their score, where their own values make no difference.

    Attributes:
        draws: K.
        seed: Of the noise.
        refine: T, steps of refinement.
        column: What the score is made of.
        sign: Of the column in the score.
        by_graph: Whether the graph `scores` gives the column.
        held_out: Scores made in the same way, for the p-values; None where the bundle has none.
        default: Whether all is as the bundle would have it.
    """

    draws: int
    seed: int
    refine: int
    column: str
    sign: int
    by_graph: bool
    held_out: Array | None
    default: bool

    def score(self, made: Mapping[str, Array]) -> dict[str, Array]:
        """`score` and `p_value` from what the score is made of."""
        score = self.sign * made[self.column]
        return {
            "score": score,
            "p_value": np.full(len(score), np.nan) if self.held_out is None else p_values(score, self.held_out),
        }

    def judge(self, bounds: dict[str, Array]) -> dict[str, Array]:
        """The bounds, with their score and p-value."""
        return bounds | self.score(bounds)


class Model:
    """A bundle on an engine, behind a batcher. Start it on the event loop that will use it.

    Raises:
        BundleError: The engine's answer to the golden rows is not the bundle's.
    """

    def __init__(self, bundle: Bundle, engine: Engine, limits: Limits, observer: Observer) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.engine = engine
        self._limits = limits
        self._observer = observer
        self._batcher = Batcher(
            engine,
            max_batch=limits.max_batch,
            max_queue=limits.max_queue,
            lanes=limits.lanes,
            observe=observer.computed,
        )
        self._bank = functools.lru_cache(maxsize=16)(self._make_bank)
        self._plan = functools.lru_cache(maxsize=256)(self._make_plan)
        if not (error := self.golden_error()) <= 1:
            raise BundleError(f"on {engine.device} the golden ELBOs are {error:.3g} times the tolerance away")

    def start(self) -> None:
        """Begin to compute."""
        self._batcher.start()

    async def stop(self) -> None:
        """Stop computing; whatever still waits is refused."""
        await self._batcher.stop()

    def golden_error(self) -> float:
        """See `engine.golden_error`; computed now, on the engine that serves. One that fails is infinitely off."""
        try:
            return golden_error(self.engine, self.bundle)
        except Exception:
            logger.exception("%s %d: the engine fails its golden rows", self.manifest.name, self.manifest.version)
            return math.inf

    async def check(self) -> None:
        """Compute the golden rows now.

        Raises:
            NotReadyError: The answer is not the bundle's.
        """
        error = await asyncio.to_thread(self.golden_error)
        if not error <= 1:
            name = f"{self.manifest.name} {self.manifest.version}"
            raise NotReadyError(f"{name}: the golden ELBOs are {error:.3g} times the tolerance away")

    async def encode(self, x: Array, num_draws: int = 0, seed: int | None = None) -> dict[str, Array]:
        """The posterior of each row: `mean` and `log_variance` (batch, L), and `draws` (batch, num_draws, L) if any."""
        self._check_size(len(x), max(num_draws, 1), "query.num_draws")
        answer = await self._batcher.submit(Work("encoder", {"x": x}))
        if num_draws:
            epsilon = self._bank(self._seed(seed), num_draws)
            deviation = np.exp(0.5 * answer["log_variance"])
            answer["draws"] = answer["mean"][:, None] + deviation[:, None] * epsilon
        return answer

    async def decode(self, z: Array) -> Array:
        """E[x|z] in data units, shape (batch, *input.shape)."""
        self._check_size(len(z), 1, "latents")
        answer = await self._batcher.submit(Work("decoder", {"z": z}))
        return answer["x_mean"]

    async def draw(self, z: Array, seed: int | None = None) -> Array:
        """One draw from p(x|z) for each row of z, in data units, shape (batch, *input.shape)."""
        if "draw" not in self.manifest.graphs:
            raise InvalidError("this bundle has no graph to draw from p(x|z)", "query.draw")
        self._check_size(len(z), 1, "latents")
        shape = (len(z), len(self.manifest.input.features))
        seed = self._seed(seed)
        random = {"normal": noise.standard_normal(seed, shape, 1), "uniform": noise.uniform(seed, shape, 2)}
        answer = await self._batcher.submit(Work("draw", {"z": z, **random}))
        return answer["x"]

    async def sample(self, n: int, seed: int | None = None, temperature: float = 1.0) -> dict[str, Array]:
        """`latents` (n, L) from the prior, spread by `temperature`, and the `instances` decoded from them.

        Of a prior with components each keeps its centre, and the temperature is that of the spread around it.
        """
        self._check_size(n, 1, "query.n")
        seed = self._seed(seed)
        normal = noise.standard_normal(seed, (n, self.manifest.latent_size))
        latents = (temperature * normal).astype(np.float32)
        if "prior" in self.manifest.graphs:
            uniform = noise.uniform(seed, (n, 1), 1)
            latents = (await self._batcher.submit(Work("prior", {"normal": latents, "uniform": uniform})))["z"]
        return {"latents": latents, "instances": await self.decode(latents)}

    async def elbo(
        self,
        x: Array,
        *,
        num_draws: int | None = None,
        seed: int | None = None,
        score: str | None = None,
        refine: int | None = None,
        explain: bool = False,
        fdr: float | None = None,
    ) -> dict[str, Array]:
        """The bounds of each row, its score and its conformal p-value, each of shape (batch,), float64.

        The p-value is NaN where it would not be valid: under draws, a seed or steps of refinement other than those of
        the calibration, or for a score that this bundle does not calibrate. `refine` adds `regret`, and has the bounds
        at the best posterior found in so many steps; `explain` adds `feature_log_likelihood` (batch, *input.shape) and
        `latent_kl` (batch, L), which add up to the encoder's own `log_likelihood` and `kl`; `fdr` adds `discovery`.

        Raises:
            InvalidError: The bundle cannot do what is asked; or a bound is not a finite number, the row being too far
                from all data for floating point.
        """
        plan = self._plan(num_draws, seed, score, refine, explain=explain)
        draws = plan.draws
        self._check_size(len(x), draws, "query.num_draws")
        self._check_size(len(x) * (1 + plan.refine), draws, "query.refine")
        if fdr is not None and plan.held_out is None:
            raise InvalidError(
                "without valid p-values no false-discovery rate can be kept: ask for a calibrated score, with the "
                "bundle's own draws, seed and refinement",
                "query.fdr",
            )
        shared, key = {"noise": self._bank(plan.seed, draws)}, (plan.seed, draws)
        at_once = not plan.refine and not plan.by_graph
        judged = ((*key, plan.column), draws, plan.judge) if at_once else (key, draws)

        # In turn: together they may be too much.
        columns = await self._batcher.submit(Work("elbo", {"x": x}, shared, *judged))
        finite = np.isfinite(columns["elbo"]) & np.isfinite(columns["log_evidence"])
        if not finite[worst := finite.argmin()]:
            raise InvalidError("too far from the training data for a finite bound", f"instances[{worst}]")
        if plan.refine:
            ascent = Ascent(await self._batcher.submit(Work("encoder", {"x": x})), columns)
            for _ in range(plan.refine + 1):
                step = Work("refine", {"x": x, **ascent.state}, shared, key, draws)
                ascent.take(await self._batcher.submit(step))
            columns = ascent.bounds
        if not at_once:
            made = await self._batcher.submit(Work("scores", {"x": x})) if plan.by_graph else columns
            columns |= plan.score(made)
        if explain:
            columns |= await self._batcher.submit(Work("explain", {"x": x}, shared, key, draws))
        if plan.default:
            self._observer.scored(columns["elbo"], columns["score"], columns["p_value"])
        if fdr is not None:
            columns["discovery"] = discoveries(columns["p_value"], fdr)
        return columns

    def _make_plan(
        self, num_draws: int | None, seed: int | None, score: str | None, refine: int | None, *, explain: bool
    ) -> _Plan:
        """What these parameters of `elbo` come to; refuses what this bundle has no graphs for."""
        manifest = self.manifest
        score = score or manifest.default_score
        if refine is None:
            refine = manifest.calibration.refine if score == "regret" else 0
        by_graph = score in manifest.graph_scores
        if refine and "refine" not in manifest.graphs:
            raise InvalidError("this bundle has no graph that refines", "query.refine")
        if explain and "explain" not in manifest.graphs:
            raise InvalidError("this bundle has no graph that explains", "query.explain")
        if score == "regret" and not refine:
            raise InvalidError("regret is what refinement gains: ask for steps of it with refine", "query.score")
        if score in {"typicality", "coarse_error"} and not by_graph:
            raise InvalidError(f"this bundle has no graph that gives {score}", "query.score")
        made = (num_draws or manifest.num_draws, self._seed(seed), refine)
        calibrated = (manifest.num_draws, manifest.seed, manifest.calibration.refine if score == "regret" else 0)
        # What a graph gives is made without draws.
        valid = score in manifest.scores and (by_graph or made == calibrated)
        held_out = self.bundle.calibration[score] if valid else None
        return _Plan(*made, *SCORES[score], by_graph, held_out, (*made, score) == (*calibrated, manifest.default_score))

    def _check_size(self, rows: int, draws: int, place: str) -> None:
        """Refuse, before anything of its size is made, what could never be computed."""
        if draws > self._limits.max_draws:
            raise TooLargeError(f"{draws:,} draws; at most {self._limits.max_draws:,} are made", place)
        if rows * draws > self._limits.max_queue:
            raise TooLargeError(
                f"{rows:,} rows × {draws:,} draws; one request may ask for {self._limits.max_queue:,}",
                place,
            )

    def _seed(self, seed: int | None) -> int:
        return self.manifest.seed if seed is None else seed

    def _make_bank(self, seed: int, num_draws: int) -> Array:
        if (seed, num_draws) == (self.manifest.seed, self.manifest.num_draws):
            return self.bundle.calibration["noise"]
        return noise.bank(seed, num_draws, self.manifest.latent_size)
