"""The threshold of a score that labelled rows ask for."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Threshold:
    """Rows with a score of at least `score` are called.

    Attributes:
        score: Infinite where only rows too far for a finite score are called.
        hits: Labelled anomalies among the called rows.
        called: Labelled rows that are called.
    """

    score: float
    hits: int
    called: int


def lowest_threshold(
    scores: npt.NDArray[np.float64], anomalous: npt.NDArray[np.bool_], precision: float
) -> Threshold | None:
    """The lowest threshold, so the one of the largest recall, at which labelled rows reach a precision.

    Args:
        scores: Of the labelled rows, (labelled,); larger is more anomalous.
        anomalous: Their labels, (labelled,).
        precision: The share of anomalies wanted among the labelled rows that are called, in (0, 1].

    Returns:
        None where no threshold reaches it.
    """
    order = np.argsort(-scores, kind="stable")
    descending, hits = scores[order], anomalous[order].cumsum()
    called = np.arange(1, len(order) + 1)
    # Rows of equal scores are called together; a threshold below the last hit would call normal rows alone.
    last = np.append(descending[1:] != descending[:-1], [True])
    passing = np.flatnonzero(last & (hits / called >= precision))  # 0.55 · 20 is more than 11 in floating point.
    if not passing.size:
        return None
    fewest = passing[hits[passing] == hits[passing[-1]]][0]
    return Threshold(float(descending[fewest]), int(hits[fewest]), int(called[fewest]))
