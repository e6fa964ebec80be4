"""A served model: the four operations, from checked arrays to named columns.

This module must not know about HTTP, bytes or devices.
"""

import asyncio
import functools
import logging
import math
from dataclasses import dataclass

import numpy as np

from service import noise
from service.batcher import Batcher, Work
from service.bundle import Array, Bundle
from service.calibration import discoveries, p_values, scores
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


class Model:
    """A bundle on an engine, behind a batcher. Start it on the event loop that will use it.

    Raises:
        BundleError: The engine's answer to the golden rows is not the bundle's.
    """

    def __init__(self, bundle: Bundle, engine: Engine, limits: Limits) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.engine = engine
        self._limits = limits
        self._batcher = Batcher(engine, max_batch=limits.max_batch, max_queue=limits.max_queue, lanes=limits.lanes)
        self._bank = functools.lru_cache(maxsize=16)(self._make_bank)
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
        draws = num_draws or self.manifest.num_draws
        seed = self._seed(seed)
        score = score or self.manifest.default_score
        if refine is None:
            refine = self.manifest.calibration.refine if score == "regret" else 0
        self._check_can(score, refine=refine, explain=explain)
        self._check_size(len(x), draws, "query.num_draws")
        self._check_size(len(x) * (1 + refine), draws, "query.refine")

        def work(graph: str, **state: Array) -> Work:
            return Work(graph, {"x": x, **state}, {"noise": self._bank(seed, draws)}, (seed, draws), draws)

        # In turn: together they may be too much.
        columns = await self._batcher.submit(work("elbo"))
        lost = ~(np.isfinite(columns["elbo"]) & np.isfinite(columns["log_evidence"]))
        if lost.any():
            raise InvalidError("too far from the training data for a finite bound", f"instances[{np.argmax(lost)}]")
        if refine:
            ascent = Ascent(await self._batcher.submit(Work("encoder", {"x": x})), columns)
            for _ in range(refine + 1):
                ascent.take(await self._batcher.submit(work("refine", **ascent.state)))
            columns = ascent.bounds
        if explain:
            columns |= await self._batcher.submit(work("explain"))
        made = await self._batcher.submit(Work("scores", {"x": x})) if score in self.manifest.graph_scores else {}
        columns["score"] = scores(columns | made)[score]
        calibrated = self._is_calibrated(score, draws, seed, refine)
        columns["p_value"] = (
            p_values(columns["score"], self.bundle.calibration[score]) if calibrated else np.full(len(x), np.nan)
        )
        if fdr is not None:
            if not calibrated:
                raise InvalidError(
                    "without valid p-values no false-discovery rate can be kept: ask for a calibrated score, with the "
                    "bundle's own draws, seed and refinement",
                    "query.fdr",
                )
            columns["discovery"] = discoveries(columns["p_value"], fdr)
        return columns

    def _check_can(self, score: str, *, refine: int, explain: bool) -> None:
        """Refuse what this bundle has no graphs for."""
        if refine and "refine" not in self.manifest.graphs:
            raise InvalidError("this bundle has no graph that refines", "query.refine")
        if explain and "explain" not in self.manifest.graphs:
            raise InvalidError("this bundle has no graph that explains", "query.explain")
        if score == "regret" and not refine:
            raise InvalidError("regret is what refinement gains: ask for steps of it with refine", "query.score")
        if score in {"typicality", "coarse_error"} - self.manifest.graph_scores:
            raise InvalidError(f"this bundle has no graph that gives {score}", "query.score")

    def _is_calibrated(self, score: str, draws: int, seed: int, refine: int) -> bool:
        """Whether held-out scores made in the same way are at hand."""
        if score in self.manifest.graph_scores:  # Made without draws.
            return score in self.manifest.scores
        steps = self.manifest.calibration.refine if score == "regret" else 0
        made = (self.manifest.num_draws, self.manifest.seed, steps)
        return score in self.manifest.scores and (draws, seed, refine) == made

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
