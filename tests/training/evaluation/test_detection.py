"""Detection figures against counts made by hand, and against closed forms."""

import numpy as np
import pytest
from scipy.stats import norm

from training.evaluation.detection import detection_figures, detection_rate


def test_a_small_case_counted_by_hand() -> None:
    scores = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    anomalous = np.array([False, False, True, False, True])
    figures = detection_figures(scores, anomalous)
    # Five of the six pairs of an anomaly and a normal row are in order.
    assert figures["auroc"] == pytest.approx(5 / 6)
    # The first report is right; the second anomaly is the third report.
    assert figures["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    # Without false alarms only the score 5 can be reported; with one in three allowed, both anomalies.
    assert figures["detection_at_10%"] == pytest.approx(0.5)
    assert detection_rate(scores, anomalous, 1 / 3) == 1.0


def test_ties_and_infinities_count_as_they_should() -> None:
    anomalous = np.array([False, True, False, True])
    tied = detection_figures(np.ones(4), anomalous)
    assert tied["auroc"] == 0.5
    assert tied["detection_at_10%"] == 0.0
    infinite = detection_figures(np.array([-np.inf, np.inf, 3.0, np.inf]), anomalous)
    assert infinite["auroc"] == 1.0
    assert infinite["detection_at_1%"] == 1.0


def test_gaussian_scores_have_the_closed_forms() -> None:
    rng = np.random.default_rng(0)
    size, shift = 40_000, 1.5
    scores = np.concatenate([rng.standard_normal(size), shift + rng.standard_normal(size)])
    anomalous = np.arange(2 * size) >= size
    figures = detection_figures(scores, anomalous)
    assert figures["auroc"] == pytest.approx(norm.cdf(shift / np.sqrt(2)), abs=0.005)
    for level in (0.01, 0.05, 0.1):
        expected = norm.sf(norm.isf(level) - shift)
        assert figures[f"detection_at_{level:.0%}"] == pytest.approx(expected, abs=0.015)
