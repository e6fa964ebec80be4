"""p-values are what they are defined to be, and false alarms come no more often than stated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from service.bundle import BOUNDS, SCORES
from service.client.discoveries import discoveries as discoveries_of_the_client
from service.client.discoveries import why_none as why_none_of_the_client
from service.scoring import discoveries, p_values, percentiles, scores, why_none

FEW_VALUES = st.integers(-3, 3).map(float)  # Few, so that ties are common.
ANY_VALUES = st.floats(allow_nan=False, allow_infinity=False)


@given(
    scores=st.lists(FEW_VALUES | ANY_VALUES, min_size=1, max_size=20),
    held_out=st.lists(FEW_VALUES | ANY_VALUES, min_size=1, max_size=30),
)
def test_p_values_are_the_definition(scores: list[float], held_out: list[float]) -> None:
    expected = [(1 + sum(other >= score for other in held_out)) / (len(held_out) + 1) for score in scores]
    answer = p_values(np.array(scores), np.sort(held_out))
    assert answer.dtype == np.float64
    assert answer.tolist() == expected


@given(scores=st.lists(ANY_VALUES, min_size=2, max_size=20), held_out=st.lists(ANY_VALUES, min_size=1, max_size=30))
def test_stranger_rows_have_smaller_p_values(scores: list[float], held_out: list[float]) -> None:
    answer = p_values(np.sort(scores), np.sort(held_out))
    assert np.all(np.diff(answer) <= 0)
    assert np.all((answer >= 1 / (len(held_out) + 1)) & (answer <= 1))


def test_ties_count_as_at_least() -> None:
    held_out = np.array([1.0, 2.0, 2.0, 2.0, 3.0])
    assert (6 * p_values(np.array([0.5, 1.0, 2.0, 2.5, 3.0, 3.5]), held_out)).tolist() == [6, 6, 5, 2, 2, 1]


def test_the_shape_is_that_of_the_scores() -> None:
    held_out = np.arange(9.0)
    assert p_values(np.float64(4.0), held_out).shape == ()
    assert p_values(np.zeros((2, 0, 3)), held_out).shape == (2, 0, 3)
    np.testing.assert_array_equal(p_values(np.array([[1.0, 9.0]]), held_out), [[0.9, 0.1]])


@pytest.mark.parametrize("level", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("ties", [False, True])
def test_false_alarms_come_no_more_often_than_stated(level: float, ties: bool) -> None:
    """Exchangeable rows, 20,000 times a new calibration of 199: P(p ≤ α) = α exactly without ties, at most α with."""
    rng = np.random.default_rng(5)
    trials = 20_000
    scores = rng.gamma(2.0, size=(trials, 200))
    if ties:
        scores = np.round(scores)
    alarms = sum(p_values(row[:1], np.sort(row[1:]))[0] <= level for row in scores)
    margin = 3 * np.sqrt(level * (1 - level) * trials)
    assert alarms <= level * trials + margin
    if not ties:
        assert alarms >= level * trials - margin


def test_scores_are_larger_for_worse_rows() -> None:
    gains = ("regret", "typicality", "multiscale_residual")
    better, worse = (dict.fromkeys(BOUNDS, np.array([v])) | dict.fromkeys(gains, np.array([-v])) for v in (-1, -9))
    assert scores(better).keys() == SCORES.keys()
    for name, score in scores(worse).items():
        assert score > scores(better)[name]


def test_scores_are_those_that_the_columns_are_enough_for() -> None:
    bounds = {name: np.array([2.0]) for name in BOUNDS}
    assert scores(bounds) == {"negative_elbo": -2.0, "negative_log_evidence": -2.0}
    assert scores({"multiscale_residual": np.array([3.0])}) == {"multiscale_residual": 3.0}


@given(p=st.lists(st.sampled_from([0.001, 0.01, 0.02, 0.05, 0.2, 0.5, 1.0]), min_size=1, max_size=12))
@pytest.mark.parametrize("fdr", [0.05, 0.3])
def test_discoveries_are_those_of_the_adjusted_p_values(fdr: float, p: list[float]) -> None:
    values = np.array(p)
    expected = false_discovery_control(values, method="bh") <= fdr
    # The adjusted values and the level may differ in the last bit where they are equal.
    near = np.abs(false_discovery_control(values, method="bh") - fdr) < 1e-12
    called = discoveries(values, fdr)
    assert ((called == expected) | near).all()
    among_rows_without = np.append(values, [np.nan] * 3)
    assert discoveries(among_rows_without, fdr).tolist() == [*called, False, False, False]


@pytest.mark.parametrize("fdr", [0.1, 0.3])
def test_false_discoveries_are_no_larger_a_share_than_stated(fdr: float) -> None:
    """40 normal and 10 strange rows against 999 held-out ones, 2,000 times; the bound is fdr × 40/50."""
    rng = np.random.default_rng(3)
    shares = []
    for _ in range(2_000):
        scores = np.concatenate([rng.standard_normal(40), 3 + rng.standard_normal(10)])
        called = discoveries(p_values(scores, np.sort(rng.standard_normal(999))), fdr)
        shares.append(called[:40].sum() / max(called.sum(), 1))
    margin = 3 * np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) <= fdr * 40 / 50 + margin
    assert np.mean(shares) >= 0.7 * fdr * 40 / 50


def test_percentiles_lie_in_a_straight_line_between_scores() -> None:
    assert percentiles(np.arange(201.0)) == pytest.approx(np.arange(0.0, 202.0, 2.0))
    assert percentiles(np.array([1.0, 2.0])) == pytest.approx(np.linspace(1, 2, 101))
    assert percentiles(np.array([7.0])) == [7.0] * 101


def test_no_rate_is_too_small_to_say_why_no_row_is_called() -> None:
    p = np.array([0.01])
    assert "no row can be called" in why_none(p, 5e-324, 99)
    assert "no row can be called" in why_none_of_the_client(p, 5e-324, 99)


@pytest.mark.parametrize("held_out", [9, 99, 999])
@pytest.mark.parametrize("percent", [5, 10, 20, 30])
def test_rows_at_the_limit_are_called_and_counted(held_out: int, percent: int) -> None:
    """In whole numbers: k rows of the smallest p-value, 1/(n + 1), are called if 100 m ≤ percent · k (n + 1)."""
    for rows in range(1, 300):
        needed = -(-100 * rows // (percent * (held_out + 1)))
        for strange in {needed - 1, needed} & set(range(1, rows + 1)):
            p = np.where(np.arange(rows) < strange, 1 / (held_out + 1), 1.0)
            called = [rule(p, percent / 100).sum() for rule in (discoveries, discoveries_of_the_client)]
            assert called == [strange if strange == needed else 0] * 2
        for why in (why_none, why_none_of_the_client):
            said = why(np.ones(rows), percent / 100, held_out)
            assert (f"at least {needed:,} " in said) if needed <= rows else ("no row can be called" in said)
