"""The card's figures of alarms: counted among the rows, with the range that chance leaves."""

import numpy as np
import pytest
from scipy.stats import betabinom

from service.scoring import p_values
from tests.training.card.cards import Page, card
from training.card import CardInputs
from training.card.alarms import LEVELS, expected_alarms, threshold


def test_alarms_are_counted_among_test_rows(digits_inputs: CardInputs) -> None:
    inputs = digits_inputs
    page = Page(card(inputs))
    rows = iter(page.rows["scores"][1:])
    for name in inputs.scores:
        for level in LEVELS:
            row = next(rows)
            assert row[0] == f"{name}, {level} %"
            limit = float(row[1].replace(",", ""))
            p = p_values(inputs.scores[name], inputs.calibration[name])
            assert row[2].startswith(f"{np.sum(p <= level / 100)} of {len(p)} ")
            assert abs(np.sum(inputs.scores[name] > limit) - np.sum(p <= level / 100)) <= 1  # Digits not shown.
    assert f"{100 * np.mean(inputs.p_values['negative_elbo'] <= 0.05):.1f}\xa0%" in page.text.split("Provenance")[0]


@pytest.mark.parametrize("num_held_out", [5, 9, 19, 20, 98, 99, 359])
def test_thresholds_are_where_p_values_reach_their_level(num_held_out: int) -> None:
    held_out = np.sort(np.random.default_rng(num_held_out).integers(0, 60, num_held_out)).astype(float)  # With ties.
    scores = np.arange(-1, 62, 0.5)
    for percent in range(1, 100):
        limit = threshold(held_out, percent)
        # 100 p (n + 1) are whole numbers, which floating-point levels are not.
        reached = np.rint(p_values(scores, held_out) * (num_held_out + 1)) * 100 <= percent * (num_held_out + 1)
        assert np.array_equal(reached, scores > limit if limit is not None else np.zeros(len(scores), bool))


def test_the_range_of_alarms_is_beta_binomial() -> None:
    # With one held-out row the count is uniform on 0, ..., m.
    assert expected_alarms(1, 1, 99) == (2, 97)
    for rank, num_held_out, num_rows in ((1, 99, 50), (5, 99, 1000), (50, 500, 3)):
        exact = betabinom(num_rows, rank, num_held_out + 1 - rank)
        assert expected_alarms(rank, num_held_out, num_rows) == tuple(int(exact.ppf(q)) for q in (0.025, 0.975))


def test_the_range_of_alarms_is_what_happens() -> None:
    rng = np.random.default_rng(1)
    low, high = expected_alarms(5, 99, 200)
    inside = 0
    for _ in range(2000):
        p = p_values(rng.standard_normal(200), np.sort(rng.standard_normal(99)))
        inside += low <= np.sum(p <= 0.05 + 1e-12) <= high
    assert 0.94 < inside / 2000 < 0.985
