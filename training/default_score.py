"""Which score a bundle answers by default: the one that best tells held-out rows from rearrangements of others.

No label and no foreign data takes part.

This module must not know how a score is computed.
"""

from collections.abc import Callable, Mapping

import numpy as np

from service.bundle import Array
from service.manifest import ImageInput, TabularInput
from training.detection import detection_figures
from training.rearrangements import rearrangements

MOST_ROWS = 2000
"""Held-out rows that take part."""


def sensitivities(
    score: Callable[[Array], Mapping[str, Array]], data: ImageInput | TabularInput, held_out: Array, seed: int
) -> dict[str, float]:
    """How well each score tells rows from rearranged ones: its AUROC, averaged over the rearrangements.

    Half of the rows stay as they are and half are rearranged, so that no row is compared with itself.

    Args:
        score: Rows (N, *shape) → scores by name, each (N,), larger for the stranger.
        data: What kind of data.
        held_out: Normal rows that neither train nor calibrate, raw, (N, *shape), at least 4.
        seed: Of the halves and the rearrangements.
    """
    rng = np.random.default_rng(seed)
    rows = held_out[rng.permutation(len(held_out))[:MOST_ROWS]]
    normal, others = rows[::2], rows[1::2]
    kept = score(normal)
    by_kind = [score(rearrange(others, rng)) for rearrange in rearrangements(data).values()]
    anomalous = np.repeat([False, True], [len(normal), len(others)])
    return {
        name: float(
            np.mean(
                [detection_figures(np.concatenate([values, changed[name]]), anomalous)["auroc"] for changed in by_kind]
            )
        )
        for name, values in kept.items()
    }


def choose(sensitivity: Mapping[str, float]) -> str:
    """The most sensitive score; the first of those that tie."""
    return max(sensitivity, key=lambda name: sensitivity[name])
