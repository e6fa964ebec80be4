"""Bounds of many rows, computed by the service's own engine from the exported graphs."""

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from rich.console import Console
from rich.progress import track

from service.bundle import BOUNDS, Array, TabularInput
from service.engine import PROVIDERS, Engine, available_cores, fitting
from service.scoring import ROUNDS, ConditionalAttribution, RefinementState, finite_bounds


def compute(
    engine: Engine,
    graph: str,
    rows: Mapping[str, Array],
    base_samples: Array | None = None,
    label: str | None = None,
) -> dict[str, Array]:
    """Every output of a graph for any number of rows, in batches, under a progress bar on a terminal.

    Batches are computed on all cores, on a GPU two at a time: each has its intermediate results in the GPU's memory.
    Graphs of bounds take base samples, (K, L), which all rows share.
    """
    shared, draws = ({}, 1) if base_samples is None else ({"noise": base_samples}, len(base_samples))
    values = max(math.prod(array.shape[1:]) for array in rows.values())
    size = max(1, fitting(_row_draws(engine), values) // draws)
    total = len(next(iter(rows.values())))
    batches = [{name: array[i : i + size] for name, array in rows.items()} for i in range(0, total, size)]
    pool = ThreadPoolExecutor(2 if PROVIDERS[engine.device].accelerates else available_cores())
    try:
        running = pool.map(lambda batch: engine.run(graph, {**batch, **shared}), batches)
        console = Console(stderr=True)
        if console.is_terminal:  # In a log the bar would be an empty line.
            running = iter(track(running, label or graph, len(batches), console=console, transient=True))
        answers = list(running)
    finally:
        pool.shutdown(cancel_futures=True)  # On Ctrl-C, batches that have not begun are not waited for.
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def bounds(engine: Engine, x: Array, base_samples: Array) -> dict[str, Array]:
    """The bounds of rows x under these base samples (K, L), as `/elbo` answers them."""
    return compute(engine, "elbo", {"x": x}, base_samples)


def refined(
    engine: Engine, x: Array, base_samples: Array, steps: int, amortised: Mapping[str, Array]
) -> dict[str, Array]:
    """The bounds of rows x after so many steps of refinement, and their regret, as `/elbo?refine=` answers them.

    Args:
        engine: Runs the bundle's graphs.
        x: Rows, (batch, *shape).
        base_samples: Noise, (K, L).
        steps: T.
        amortised: The rows' bounds as `bounds` has them.
    """
    refinement = RefinementState(compute(engine, "encoder", {"x": x}), amortised)
    for _ in range(steps + 1):
        refinement.take(compute(engine, "refine", {"x": x, **refinement.state}, base_samples))
    return refinement.bounds


def surprise(engine: Engine, x: Array, base_samples: Array, elbo: Array, data: TabularInput) -> dict[str, Array]:
    """`feature_surprise` and `feature_expected` of a table's rows x, (batch, D), as `/elbo?explain=true` answers them.

    Args:
        engine: Runs the bundle's graphs.
        x: Rows, (batch, D).
        base_samples: Noise, (K, L).
        elbo: Of the rows, (batch,).
        data: The columns.
    """
    surprises, expected = [], []
    for cells in ConditionalAttribution.of(x, _row_draws(engine), data):
        for _ in range(ROUNDS):
            z = compute(engine, "encoder", {"x": cells.rows})["mean"]
            cells.fill(compute(engine, "decoder", {"z": z})["x_mean"])
        surprises.append(cells.surprise(elbo, bounds(engine, cells.rows, base_samples)["elbo"]))
        expected.append(cells.expected)
    return {"feature_surprise": np.concatenate(surprises, 1), "feature_expected": np.concatenate(expected, 1)}


def score_columns(
    engine: Engine, graphs: Iterable[str], x: Array, base_samples: Array, refine: int
) -> dict[str, Array]:
    """Everything about rows x that scores are made of, each (batch,); see `service.scoring.scores`.

    A row too far from all data for a finite bound has bounds that are no numbers, and no regret.

    Args:
        engine: Runs the bundle's graphs.
        graphs: The bundle's graphs.
        x: Rows, (batch, *shape).
        base_samples: Noise, (K, L).
        refine: Steps of refinement of the regret; without it for 0.
    """
    columns = bounds(engine, x, base_samples)
    if "scores" in graphs:
        columns |= compute(engine, "scores", {"x": x})
    if refine:
        columns["regret"] = np.full(len(x), np.nan)
        if (finite := finite_bounds(columns)).any():
            amortised = {name: columns[name][finite] for name in BOUNDS}
            columns["regret"][finite] = refined(engine, x[finite], base_samples, refine, amortised)["regret"]
    return columns


def log_evidence(engine: Engine, x: Array, base_samples: Array, chunk: int = 500) -> Array:
    """Log p(x) of rows by importance sampling with the encoder's posterior as proposal (Burda et al. 2016, eq. 8).

    The draws are streamed in chunks, and combined in their order:
    log 1/S Σ_k w_k = log Σ_chunks exp(log_evidence + log K) − log S, with K the draws of a chunk.

    Args:
        engine: Runs the bundle's graphs.
        x: Rows, (N, *shape).
        base_samples: Noise, (S, L).
        chunk: Most draws in memory at once.

    Returns:
        Nats, (N,), float64: a lower bound in expectation, which rises to log p(x) with S.
    """
    total = np.full(len(x), -math.inf)
    for start in range(0, len(base_samples), chunk):
        part = base_samples[start : start + chunk]
        label = f"draws {start + 1:,} to {start + len(part):,} of {len(base_samples):,}"
        answer = compute(engine, "elbo", {"x": x}, part, label)
        total = np.logaddexp(total, answer["log_evidence"] + math.log(len(part)))
    return total - math.log(len(base_samples))


def held_out_metrics(held_out: Mapping[str, Array]) -> dict[str, float]:
    """Means of the bounds over held-out rows, in nats per row, and for several rows the standard error of the mean."""
    means = {f"test_{name}": float(np.mean(held_out[name])) for name in BOUNDS if np.all(np.isfinite(held_out[name]))}
    elbo = held_out["elbo"]
    if "test_elbo" in means and len(elbo) > 1:
        means["test_elbo_standard_error_of_mean"] = float(np.std(elbo, ddof=1) / np.sqrt(len(elbo)))
    return means


def _row_draws(engine: Engine) -> int:
    """Rows × draws in one engine call, of small rows; on the CPU as the service's batches."""
    return 2**13 if PROVIDERS[engine.device].accelerates else 512
