"""How well scores tell anomalies from normal rows. Scores are larger for the more anomalous row."""

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from service.bundle import Array

LEVELS = (0.01, 0.05, 0.1)
"""False-alarm rates at which detection is reported."""


def detection_figures(scores: Array, anomalous: Array) -> dict[str, float]:
    """AUROC, average precision, and detection rates at the false-alarm rates `LEVELS`.

    Average precision depends on the share of anomalies, which chance alone reaches; the others do not.

    Args:
        scores: Shape (n,); infinite ones rank above all others.
        anomalous: Which rows are anomalies, (n,), boolean; at least one is and one is not.
    """
    # An order is all that counts, and ranks are finite.
    ranks = np.unique(scores, return_inverse=True)[1]
    return {
        "auroc": float(roc_auc_score(anomalous, ranks)),
        "average_precision": float(average_precision_score(anomalous, ranks)),
        **{f"detection_at_{level:.0%}": detection_rate(ranks, anomalous, level) for level in LEVELS},
    }


def detection_rate(scores: Array, anomalous: Array, level: float) -> float:
    """The largest share of anomalies above a threshold that at most `level` of the normal rows are above."""
    false_alarms, detections, _ = roc_curve(anomalous, scores, drop_intermediate=False)
    return float(detections[false_alarms <= level].max())
