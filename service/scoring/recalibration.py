"""Another set of held-out rows without another training: confirmed normal rows come in, confirmed anomalies go out.

A p-value is exact if a new normal row is exchangeable with the held-out rows. Removing anomalies keeps that for normal
rows. Adding normal rows keeps it if these were chosen without a look at their scores, did not train the model, and are
not among the held-out rows yet.

A bundle has the scores of its held-out rows, not the rows. An anomaly is taken for one of them if these have all of its
scores.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from service.bundle import Array
from service.scoring.missing_cells import pattern_keys, stored_segments

ALIKE = 1e-6
"""The share by which two scores of one row may differ, computed on different processors."""

Scores = Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Recalibrated:
    """A new calibration.

    Attributes:
        scores: By name, those of all held-out rows, sorted ascending, (n,).
        missing_cells: The arrays for rows with missing cells; empty where the bundle had none.
        added: How many rows came in.
        removed: How many rows went out.
        repeated: How many of these have the scores of a row that was there before.
        incomplete: How many normal rows stayed out because they lack cells, and no held-out row did.
    """

    scores: dict[str, Array]
    missing_cells: dict[str, Array]
    added: int
    removed: int
    repeated: int
    incomplete: int


def recalibrate(
    held_out: Scores, missing_cells: Mapping[str, Array], x: Array, anomalous: Array, score: Callable[[Array], Scores]
) -> Recalibrated:
    """Add normal rows to the held-out rows, and remove anomalies from them.

    Args:
        held_out: Calibrated scores by name, each sorted ascending, (n,).
        missing_cells: The arrays of the bundle's `MISSING_CELLS`; empty where it has no such file.
        x: Confirmed rows, (rows, *shape), of which each normal one has a finite score.
        anomalous: Which are anomalies, bool (rows,); those that are no held-out rows are left out.
        score: Rows → all calibrated scores, each (rows,).
    """
    made = score(x)
    known = np.all([_occur(held_out[name], made[name]) for name in held_out], axis=0)
    missing = np.isnan(x) if x.ndim == 2 and x.dtype.kind == "f" else np.zeros((len(x), 1), bool)
    comparable = ~missing.any(1) | _divides_complete(missing_cells)
    coming, going = ~anomalous & comparable, anomalous & known
    scores = {name: _changed(values, made[name][coming], made[name][going]) for name, values in held_out.items()}
    stored = dict(missing_cells)
    if stored:
        segments = {name: stored_segments(missing_cells, name) for name in held_out}
        _add(segments, missing_cells, missing[coming], {name: values[coming] for name, values in made.items()})
        _remove(segments, missing_cells, x[going], score)
        for name, parts in segments.items():
            stored[f"{name}.sizes"] = np.array([len(part) for part in parts])
            stored[name] = np.concatenate(parts)
    counts = (coming, going, coming & known, ~anomalous & ~comparable)
    return Recalibrated(scores, stored, *(int(rows.sum()) for rows in counts))


def _divides_complete(stored: Mapping[str, Array]) -> bool:
    """Whether rows without missing cells are compared with a part of the held-out rows, not with all."""
    return bool(stored) and bool((~stored["patterns"].any(1)).any())


def _add(segments: dict[str, list[Array]], stored: Mapping[str, Array], missing: Array, made: Scores) -> None:
    """Add rows to the part of their own pattern, or of their count; parts without rows have too few, and stay so."""
    patterns = {key: part for part, key in enumerate(pattern_keys(stored["patterns"]))}
    counts = {int(count): len(patterns) + part for part, count in enumerate(stored["counts"])}
    for row, key in enumerate(pattern_keys(missing)):
        part = patterns.get(key)
        if part is None and not (missing[row] & ~stored["often"]).any():
            part = counts.get(int(missing[row].sum()))
        for name, parts in segments.items():
            if part is not None and len(parts[part]):
                parts[part] = _changed(parts[part], made[name][row : row + 1], made[name][:0])


def _remove(
    segments: dict[str, list[Array]], stored: Mapping[str, Array], x: Array, score: Callable[[Array], Scores]
) -> None:
    """Remove rows from every part, as they are and with the cells of its pattern hidden."""
    patterns = stored["patterns"]
    for row in x:
        lacking = np.isnan(row)
        parts = [part for part, pattern in enumerate(patterns) if not (lacking & ~pattern).any()]
        hidden = np.stack([row, *(np.where(patterns[part], np.nan, row) for part in parts)])
        made = score(hidden)
        counted = [part for part, count in enumerate(stored["counts"], len(patterns)) if count == lacking.sum()]
        for name, values in made.items():
            for part, value in zip([*parts, *counted], [*values[1:], *[values[0]] * len(counted)], strict=True):
                segments[name][part] = _changed(segments[name][part], values[:0], np.array([value]))


def _occur(held_out: Array, scores: Array) -> Array:
    """Which of these scores the held-out rows have, bool (rows,)."""
    return np.array([_nearest(held_out, score) is not None for score in scores], np.bool_)


def _nearest(held_out: Array, score: float) -> int | None:
    """The number of the held-out row with this score, if there is one."""
    if not held_out.size:
        return None
    place = int(held_out.searchsorted(score))
    near = min((i for i in (place - 1, place) if 0 <= i < held_out.size), key=lambda i: abs(held_out[i] - score))
    return near if abs(held_out[near] - score) <= ALIKE * max(1.0, abs(score)) else None


def _changed(held_out: Array, coming: Array, going: Array) -> Array:
    """Sorted scores with some added and some removed; a score that is not among them removes nothing."""
    for score in going:
        if (place := _nearest(held_out, float(score))) is not None:
            held_out = np.delete(held_out, place)
    return np.sort(np.concatenate([held_out, coming]))
