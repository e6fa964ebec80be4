"""Which score a bundle answers by default: the one that best tells held-out rows from rearrangements of others.

No label and no foreign data takes part.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from service.bundle import Array, ImageInput, TabularInput
from training.evaluation.corruptions import CORRUPTIONS
from training.evaluation.detection import detection_figures

MOST_ROWS = 2000
"""Held-out rows that take part."""

OF_IMAGES_ALONE = frozenset({"typicality"})
"""Scores that are no default of a table: they notice exchanged cells, yet found fewer of the anomalies in tables."""


def sensitivities(
    score: Callable[[Array], Mapping[str, Array]], data: ImageInput | TabularInput, held_out: Array, seed: int
) -> dict[str, float]:
    """How well each score tells rows from rearranged ones: its AUROC, averaged over the rearrangements.

    Args:
        score: Rows (N, *shape) → scores by name, each (N,), larger for the stranger.
        data: What kind of data.
        held_out: Normal rows that neither train nor calibrate, raw, (N, *shape), at least 2.
        seed: Of the rearrangements.
    """
    rng = np.random.default_rng(seed)
    normal = held_out[rng.permutation(len(held_out))[:MOST_ROWS]]
    kept = score(normal)
    corrupted = [score(corrupt(normal, rng)) for corrupt in CORRUPTIONS[data.kind].values()]
    anomalous = np.repeat([False, True], len(normal))

    def auroc(name: str, changed: Mapping[str, Array]) -> float:
        return detection_figures(np.concatenate([kept[name], changed[name]]), anomalous)["auroc"]

    return {name: float(np.mean([auroc(name, changed) for changed in corrupted])) for name in kept}


def choose(sensitivity: Mapping[str, float], rows: int, data: ImageInput | TabularInput) -> str:
    """The first score that no other beats by more than chance may: the bounds come first, and few rows say little.

    An AUROC of A, of n rows on each side, has a standard error of at most √(A(1 − A)/n) (Bamber 1975). For A it takes
    (nA + 1)/(n + 2), Laplace's rule of succession: few rows without a mistake do not prove that there is none.
    """
    left_out = OF_IMAGES_ALONE if data.kind == "tabular" else frozenset()
    candidates = {name: auroc for name, auroc in sensitivity.items() if name not in left_out}
    best, rows = max(candidates.values()), min(rows, MOST_ROWS)
    expected = (rows * best + 1) / (rows + 2)
    margin = math.sqrt(expected * (1 - expected) / rows)
    return next(name for name, auroc in candidates.items() if auroc >= best - margin)
