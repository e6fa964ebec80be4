"""Whether p-values mean what they say: false alarms and false discoveries over random calibration sets."""

import numpy as np

from service.scoring import discoveries, p_values
from tests.benchmarks.detection.tasks import Array
from training.evaluation.detection import LEVELS

RESAMPLES = 200
UNIT = 100
"""Calibration sets hold one row less than a multiple of it, so that a p-value can be exactly 1, 5 or 10 %."""


def false_alarms(normal: Array, anomalous: Array, seed: int) -> dict[str, list[float]] | None:
    """Mean and standard error over `RESAMPLES` of the rate of false alarms and of the false-discovery proportion.

    Each time half of the normal rows, chosen at random, calibrate, and the others are tested: alone for false alarms;
    with one anomaly to nine of them, under Benjamini and Hochberg's rule, for false discoveries.

    Args:
        normal: Scores of held-out normal rows, (n,).
        anomalous: Scores of anomalies, (m,).
        seed: Of the choices.

    Returns:
        By `alarms at α` and `discoveries at q`; None where there are too few rows to calibrate on.
    """
    size = len(normal) // 2 // UNIT * UNIT - 1
    if size < 0:
        return None
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(RESAMPLES):
        order = rng.permutation(len(normal))
        held_out, test = np.sort(normal[order[:size]]), normal[order[size:]]
        strange = rng.choice(anomalous, min(len(anomalous), len(test) // 9), replace=False)
        p = p_values(np.concatenate([test, strange]), held_out)
        is_strange = np.arange(len(p)) >= len(test)
        for level in LEVELS:
            found.setdefault(f"alarms at {level:.0%}", []).append(float(np.mean(p[~is_strange] <= level)))
            called = discoveries(p, level)
            proportion = float((called & ~is_strange).sum() / max(1, called.sum()))
            found.setdefault(f"discoveries at {level:.0%}", []).append(proportion)
    return {
        name: [float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(RESAMPLES))]
        for name, values in found.items()
    }
