"""The martingale is one: exactly fair where nothing drifts, and soon rich where something does."""

import itertools
import math

import numpy as np
import pytest

from service.scoring import FALSE_ALARMS, Martingale, drift

ALARM = math.log(1 / FALSE_ALARMS)


def capitals(order: tuple[float, ...], n: int) -> list[float]:
    """The capital after each score of `order`, the first n being the held-out ones."""
    martingale = Martingale(np.sort(np.array(order[:n])))
    found = []
    for score in order[n:]:
        martingale.update(np.array([score]))
        found.append(math.exp(martingale.log_capital))
    return found


@pytest.mark.parametrize("n", [2, 3, 4])
def test_over_all_orders_nothing_is_won_or_lost(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "HALF_LAID", 1)  # Large stakes from the first row on.
    values = (-2.0, -0.5, 0.1, 0.7, 1.3, 4.0)
    found = np.array([capitals(order, n) for order in itertools.permutations(values)])
    assert found.std(axis=0).min() > 0.02
    np.testing.assert_allclose(found.mean(axis=0), 1, rtol=1e-12)


def test_p_values_against_the_same_rows_would_not_be_fair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "HALF_LAID", 1)

    class Fixed(Martingale):
        """Odds that learn nothing."""

        def update(self, scores: np.ndarray) -> None:
            gaps = self._hits.copy()
            super().update(scores)
            self._hits, self._gaps = gaps, self._gaps - len(scores)

    random = np.random.default_rng(0)
    broke = 0
    for _ in range(20):
        martingale = Fixed(np.sort(random.normal(size=20)))
        for _ in range(500):
            martingale.update(random.normal(size=10))
        broke += martingale.log_maximum >= ALARM
    assert broke >= 10


def test_equal_scores_are_fair_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "HALF_LAID", 50)
    capital = []
    for seed in range(1500):
        random = np.random.default_rng([1, seed])
        monkeypatch.setattr(drift, "_SEED", [2, seed])
        levels = random.integers(0, 3, size=60).astype(float)
        martingale = Martingale(np.sort(levels[:20]))
        martingale.update(levels[20:])
        capital.append(math.exp(martingale.log_capital))
    error = np.std(capital) / math.sqrt(len(capital))
    assert error < 0.05
    assert abs(np.mean(capital) - 1) < 4 * error


def test_how_rows_are_divided_makes_no_difference() -> None:
    random = np.random.default_rng(3)
    held_out, scores = np.sort(random.normal(size=200)), random.normal(0.3, size=1500)
    whole, pieces = Martingale(held_out), Martingale(held_out)
    whole.update(scores)
    for piece in np.split(scores, [1, 2, 700, 700, 1300]):
        pieces.update(piece)
    assert pieces.rows == whole.rows == 1500
    assert pieces.log_capital == pytest.approx(whole.log_capital, abs=1e-9)
    assert pieces.log_maximum == pytest.approx(whole.log_maximum, abs=1e-9)


def test_the_recursion_is_that_of_shiryaev_and_roberts() -> None:
    """The formulas of the module's docstring, one row at a time."""
    random = np.random.default_rng(4)
    held_out, scores = np.sort(random.normal(size=50)), random.normal(0.5, size=300)
    martingale = Martingale(held_out)
    levels = np.unique(np.clip(np.rint(np.array(drift.LEVELS) * 51), 1, 50)) / 51
    ratios = drift._likelihood_ratios(levels)
    hits = np.diff(np.array([0.0, *levels, 1.0])) * 51
    extreme = np.array([share + (1 - share) * levels[0] for share in drift.CONTAMINATIONS])
    c, bets = drift.HALF_LAID, ratios.shape[1] + extreme.size
    stakes = np.zeros(bets)
    largest = 1.0
    for t, score in enumerate(scores, start=1):
        p = (np.count_nonzero(held_out > score) + 0.5) / 51
        b = np.searchsorted(levels, p)
        odds = hits / hits.sum()
        fixed = extreme / odds[0] if b == 0 else (1 - extreme) / (1 - odds[0])
        gains = np.array([*(ratios[b] / (odds @ ratios)), *fixed])
        stakes = gains * (stakes + c / ((t + c - 1) * (t + c)) / bets)
        hits[b] += 1
        largest = max(largest, c / (t + c) + stakes.sum())
    martingale.update(scores)
    assert martingale.log_capital == pytest.approx(math.log(c / (len(scores) + c) + stakes.sum()), abs=1e-9)
    assert martingale.log_maximum == pytest.approx(math.log(largest), abs=1e-9)


def test_alternatives_are_distributions() -> None:
    for n in (1, 5, 359, 100_000):
        levels = np.unique(np.clip(np.rint(np.array(drift.LEVELS) * (n + 1)), 1, n)) / (n + 1)
        ratios = drift._likelihood_ratios(levels)
        uniform = np.diff(np.array([0.0, *levels, 1.0]))
        assert (ratios > 0).all()
        np.testing.assert_allclose(uniform @ ratios, 1, rtol=1e-12)


@pytest.mark.parametrize("rows", [0, 20_000])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_shift_is_found_whenever_it_comes(rows: int, sign: int) -> None:
    random = np.random.default_rng(5)
    martingale = Martingale(np.sort(random.normal(size=600)))
    martingale.update(random.normal(size=rows))
    assert martingale.log_maximum < ALARM
    martingale.update(random.normal(sign * 0.5, size=500))
    assert martingale.log_maximum >= ALARM


def test_it_survives_the_absurd() -> None:
    martingale = Martingale(np.sort(np.random.default_rng(6).normal(size=100)))
    for score in (1e300, -1e300, 0.0):
        martingale.update(np.full(20_000, score))
        assert math.isfinite(martingale.log_capital)
    assert martingale.log_maximum > 1000
