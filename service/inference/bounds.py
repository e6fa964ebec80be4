"""The bounds of rows: from their parameters to the columns of an answer, engine call by engine call."""

import functools

import numpy as np

from service.bundle import Array, Bundle, TabularInput
from service.inference.batcher import Batcher
from service.inference.jobs import Work
from service.scoring import (
    ROUNDS,
    BoundParameters,
    ConditionalAttribution,
    RefinementState,
    blank,
    finite_bounds,
    noise,
)
from service.threads import FEW, in_thread

Columns = dict[str, Array]


class Bounds:
    """Computes the bounds of one bundle's rows.

    Args:
        bundle: Whose.
        batcher: Where its graphs are computed.
        max_batch: Most row-draws in one engine call.
    """

    def __init__(self, bundle: Bundle, batcher: Batcher, max_batch: int) -> None:
        self._manifest = bundle.manifest
        self._batcher = batcher
        self._max_batch = max_batch
        # A cache of a function of the bundle, not of a method: in a circle the model would outlast its last use.
        self._base_samples = functools.lru_cache(maxsize=16)(functools.partial(_base_samples, bundle))

    async def base_samples(self, seed: int, draws: int) -> Array:
        """The base samples that all rows share, (draws, L)."""
        if draws * self._manifest.latent_size <= FEW:
            return self._base_samples(seed, draws)
        return await in_thread(functools.partial(self._base_samples, seed, draws))

    async def compute(self, x: Array, parameters: BoundParameters) -> Columns:
        """The columns of `elbo` that depend on one row each."""
        draws = parameters.draws
        shared, key = {"noise": await self.base_samples(parameters.seed, draws)}, (parameters.seed, draws)
        at_once = not parameters.refine and not parameters.by_graph
        judged = ((*key, parameters.column), draws, parameters.judge) if at_once else (key, draws)

        # In turn: together they may be too much.
        columns = await self._batcher.submit(Work("elbo", {"x": x}, shared, *judged))
        if at_once and not parameters.explain:  # Judged with the whole batch.
            columns["p_value"] = parameters.p_value(columns, x)
            return columns
        finite = finite_bounds(columns)
        columns = blank(columns, finite)
        amortised = columns["elbo"]
        if parameters.refine:
            refinement = RefinementState(await self._batcher.submit(Work("encoder", {"x": x})), columns)
            for _ in range(parameters.refine + 1):
                step = Work("refine", {"x": x, **refinement.state}, shared, key, draws)
                refinement.take(await self._batcher.submit(step))
            columns = refinement.bounds
        if not at_once:
            made = await self._batcher.submit(Work("scores", {"x": x})) if parameters.by_graph else columns
            columns |= parameters.score(made)
        columns["p_value"] = parameters.p_value(columns, x)
        if parameters.explain:
            columns |= await self._batcher.submit(Work("explain", {"x": x}, shared, key, draws))
        if parameters.by_cell and isinstance(data := self._manifest.input, TabularInput):
            columns |= await self._surprise(x, amortised, shared, key, draws, data)
        return blank(columns, finite & np.isfinite(columns["score"]))

    async def _surprise(
        self, x: Array, elbo: Array, shared: dict[str, Array], key: tuple[int, int], draws: int, data: TabularInput
    ) -> dict[str, Array]:
        """`feature_surprise` and `feature_expected` of a table's rows, whose ELBO is known."""
        surprises, expected = [], []
        for cells in ConditionalAttribution.of(x, self._max_batch, data):
            for _ in range(ROUNDS):
                posterior = await self._batcher.submit(Work("encoder", {"x": cells.rows}))
                decoded = await self._batcher.submit(Work("decoder", {"z": posterior["mean"]}))
                cells.fill(decoded["x_mean"])
            filled = await self._batcher.submit(Work("elbo", {"x": cells.rows}, shared, key, draws))
            surprises.append(cells.surprise(elbo, filled["elbo"]))
            expected.append(cells.expected)
        return {"feature_surprise": np.concatenate(surprises, 1), "feature_expected": np.concatenate(expected, 1)}


def _base_samples(bundle: Bundle, seed: int, num_draws: int) -> Array:
    manifest = bundle.manifest
    if (seed, num_draws) == (manifest.seed, manifest.num_draws):
        return bundle.calibration["noise"]
    return noise.base_samples(seed, num_draws, manifest.latent_size)
