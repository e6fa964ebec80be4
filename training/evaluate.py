"""Held-out figures, computed by the service's own engine from the exported graphs.

This module must not know about torch: what is measured is what will be served.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from rich.console import Console
from rich.progress import track

from service.bundle import Array
from service.engine import Engine
from service.manifest import BOUNDS
from service.refinement import Ascent

ROW_DRAWS = 512
"""Rows × draws in one engine call: as the service's batches."""


def compute(
    engine: Engine, graph: str, rows: Mapping[str, Array], shared: Mapping[str, Array], draws: int = 1
) -> dict[str, Array]:
    """Every output of a graph for any number of rows, in batches, on all cores, under a progress bar."""
    size = max(1, ROW_DRAWS // draws)
    total = len(next(iter(rows.values())))
    batches = [{name: array[i : i + size] for name, array in rows.items()} for i in range(0, total, size)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = pool.map(lambda batch: engine.run(graph, {**batch, **shared}), batches)
        answers = list(track(running, graph, len(batches), console=Console(stderr=True), transient=True))
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def bounds(engine: Engine, x: Array, bank: Array) -> dict[str, Array]:
    """The bounds of rows x under the noise bank (K, L), as `/elbo` answers them."""
    return compute(engine, "elbo", {"x": x}, {"noise": bank}, len(bank))


def refined(engine: Engine, x: Array, bank: Array, steps: int, amortised: Mapping[str, Array]) -> dict[str, Array]:
    """The bounds of rows x after so many steps of refinement, and their regret, as `/elbo?refine=` answers them.

    Args:
        engine: Runs the bundle's graphs.
        x: Rows, (batch, *shape).
        bank: Noise, (K, L).
        steps: T.
        amortised: The rows' bounds as `bounds` has them.
    """
    ascent = Ascent(compute(engine, "encoder", {"x": x}, {}), amortised)
    for _ in range(steps + 1):
        ascent.take(compute(engine, "refine", {"x": x, **ascent.state}, {"noise": bank}, len(bank)))
    return ascent.bounds


def held_out_metrics(held_out: Mapping[str, Array]) -> dict[str, float]:
    """Means of the bounds over held-out rows, in nats per row, and the standard error of the mean ELBO."""
    means = {f"test_{name}": float(np.mean(held_out[name])) for name in BOUNDS if np.all(np.isfinite(held_out[name]))}
    spread = float(np.std(held_out["elbo"], ddof=1) / np.sqrt(len(held_out["elbo"])))
    return means | {"test_elbo_standard_error_of_mean": spread}
