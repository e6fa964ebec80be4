"""Rows with missing cells get the p-values that their definition gives, and no more false alarms than stated."""

import numpy as np
import pytest

from service.bundle import Array
from service.scoring import recalibrate
from service.scoring.missing_cells import FEWEST, SAME, HeldOutScores
from training.evaluation.missing_cells import missing_cell_scores


def score(x: Array) -> dict[str, Array]:
    """A bound's kind of score: a sum over the observed cells, and so of another scale under each pattern."""
    return {"negative_elbo": np.nansum(x * x + 1.5, 1)}


def blank(x: Array, share: float, rng: np.random.Generator) -> Array:
    return np.where(rng.random(x.shape) < share, np.nan, x)


def calibrate(held_out: Array) -> HeldOutScores:
    own = score(held_out)
    stored = missing_cell_scores(score, held_out, own)
    return HeldOutScores.read("negative_elbo", np.sort(own["negative_elbo"]), stored)


def answer(held_out: Array, x: Array) -> Array:
    return calibrate(held_out).p_values(score(x)["negative_elbo"], x)


def compared(row: Array, rows: Array) -> float:
    """The p-value of a row against these."""
    larger = int((score(rows)["negative_elbo"] >= score(row[None])["negative_elbo"]).sum())
    return (1 + larger) / (1 + len(rows))


def comparable(row: Array, rows: Array) -> Array:
    """Those that lack no other cells than the row does, with the same cells hidden."""
    missing = np.isnan(row)
    return np.where(missing, np.nan, rows[~np.isnan(rows)[:, ~missing].any(1)])


@pytest.mark.parametrize("share", [0.0, 0.15])
def test_a_row_is_compared_with_rows_that_lack_the_same_cells(share: float) -> None:
    rng = np.random.default_rng(1)
    held_out, x = blank(rng.normal(size=(90, 5)), share, rng), blank(rng.normal(size=(200, 5)), 0.3, rng)
    expected = [compared(row, rows) if len(rows := comparable(row, held_out)) >= FEWEST else np.nan for row in x]
    assert np.isnan(x).any(1).sum() > 100
    np.testing.assert_array_equal(answer(held_out, x), expected)


@pytest.mark.parametrize("others", [0, 30])
@pytest.mark.parametrize("number", [7, FEWEST - 1, FEWEST])
def test_a_few_comparable_rows_are_enough_where_there_are_no_more(number: int, others: int) -> None:
    held_out = np.random.default_rng(7).normal(size=(number + others, 3))
    held_out[number:, 0] = np.nan
    x = np.array([[1.0, np.nan, 2.0]])
    expected = compared(x[0], comparable(x[0], held_out)) if number >= FEWEST or not others else np.nan
    np.testing.assert_array_equal(answer(held_out, x), [expected])


def test_rows_of_the_very_pattern_come_first() -> None:
    """They are another kind of row, so others with the cell hidden would not do."""
    rng = np.random.default_rng(2)
    alone, others = rng.normal(size=(SAME, 3)), 3 * rng.normal(size=(200, 3))
    alone[:, 1] = np.nan
    x = np.array([[1.0, np.nan, 2.0], [1.0, 0.5, 2.0], [np.nan, 0.5, 2.0]])
    held_out = np.concatenate([others, alone])
    expected = [compared(x[0], alone), compared(x[1], others), compared(x[2], comparable(x[2], others))]
    assert answer(held_out, x).tolist() == expected


def test_rare_patterns_are_compared_with_rows_that_lack_as_many_cells() -> None:
    """Or with none, where a cell is missing that seldom is, or where fewer are missing than in any held-out row."""
    rng = np.random.default_rng(3)
    held_out = rng.normal(size=(500, 40))
    for row in held_out:
        row[rng.permutation(39)[:8]] = np.nan  # The last column never.
    x = rng.normal(size=(3, 40))
    x[0, :8], x[1, 32:], x[2, :2] = np.nan, np.nan, np.nan
    assert answer(held_out, x)[0] == compared(x[0], held_out)
    assert np.isnan(answer(held_out, x)[1:]).all()


def test_a_score_that_takes_too_long_is_known_of_the_very_pattern_only() -> None:
    rng = np.random.default_rng(4)
    held_out = rng.normal(size=(300, 3))
    held_out[:150, 1] = np.nan
    regret = rng.normal(size=300)
    stored = missing_cell_scores(score, held_out, score(held_out) | {"regret": regret})
    x = np.array([[1.0, np.nan, 2.0], [np.nan, 1.0, 2.0]])
    p = HeldOutScores.read("regret", np.sort(regret), stored).p_values(np.full(2, 0.5), x)
    assert p[0] == (1 + (regret[:150] >= 0.5).sum()) / 151
    assert np.isnan(p[1])


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_false_alarms_come_as_often_as_stated(share: float) -> None:
    """P-values of rows with 0, 1 and 2 blank cells, and with a fifth blank, all at random; over 100 calibrations."""
    rng = np.random.default_rng(5)
    levels = np.array([0.01, 0.05, 0.1])
    alarms = np.empty((100, 4, 3))
    for repeat in alarms:
        x = rng.normal(size=(100, 5))
        order = rng.permuted(np.tile(np.arange(5), (100, 1)), axis=1)
        held_out = calibrate(blank(rng.normal(size=(399, 5)), share, rng))
        patterns = [*(np.where(order < blanks, np.nan, x) for blanks in range(3)), blank(x, 0.2, rng)]
        for rates, rows in zip(repeat, patterns, strict=True):
            p = held_out.p_values(score(rows)["negative_elbo"], rows)
            assert not np.isnan(p).any()
            rates[:] = (p[:, None] <= levels + 1e-12).mean(0)
    rates, errors = alarms.mean(0), alarms.std(0, ddof=1) / np.sqrt(len(alarms))
    assert np.all(rates <= levels + 3 * errors)
    # If few held-out rows are comparable, p-values come in larger steps.
    assert np.all(rates >= levels * (0.7 if share else 1) - 3 * errors)


def test_a_blank_does_not_hide_an_anomaly() -> None:
    """The cell lost is worth more than the anomaly is strange: against complete rows the row would look usual."""
    rng = np.random.default_rng(6)
    scales = np.array([1.0, 5.0])
    held_out, x = rng.normal(size=(400, 2)) * scales, np.array([[4.0, np.nan]])
    assert compared(x[0], held_out) > 0.3
    assert answer(held_out, x)[0] <= 0.01


def recalibrated(held_out: Array, rows: Array, anomalous: Array) -> HeldOutScores:
    own = score(held_out)
    sorted_scores = {name: np.sort(values) for name, values in own.items()}
    new = recalibrate(sorted_scores, missing_cell_scores(score, held_out, own), rows, anomalous, score)
    return HeldOutScores.read("negative_elbo", new.scores["negative_elbo"], new.missing_cells)


def test_rows_that_come_in_are_compared_with_their_own_pattern() -> None:
    """As if they had been held out from the beginning."""
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(900, 2))
    rows[:300, 0], rows[300:520, 1] = np.nan, np.nan  # Each pattern has rows enough.
    rng.shuffle(rows)
    held_out, new, x = rows[:700], rows[700:], rng.normal(size=(300, 2))
    x[:100, 0], x[100:200, 1] = np.nan, np.nan
    found = recalibrated(held_out, np.concatenate([new, held_out[:20]]), np.arange(220) >= 200)
    expected = answer(np.concatenate([held_out[20:], new]), x)
    np.testing.assert_array_equal(found.p_values(score(x)["negative_elbo"], x), expected)


def test_too_few_comparable_rows_stay_too_few_when_rows_come_in() -> None:
    """The rows that come in would be compared with each other alone: of the others only their scores are known."""
    rng = np.random.default_rng(4)
    held_out, x = rng.normal(size=(60, 2)), np.array([[0.5, 1.0], [np.nan, 1.0]])
    held_out[FEWEST - 1 :, 0] = np.nan
    assert np.isnan(answer(held_out, x)).tolist() == [True, False]
    found = recalibrated(held_out, rng.normal(size=(5, 2)), np.zeros(5, bool))
    assert np.isnan(found.p_values(score(x)["negative_elbo"], x)).tolist() == [True, False]


def test_anomalies_leave_every_pattern_that_they_were_hidden_for() -> None:
    rng = np.random.default_rng(3)
    held_out, x = blank(rng.normal(size=(90, 5)), 0.15, rng), blank(rng.normal(size=(200, 5)), 0.3, rng)
    going = np.flatnonzero(~np.isnan(held_out).any(1))[:4]
    found = recalibrated(held_out, held_out[going], np.ones(4, bool)).p_values(score(x)["negative_elbo"], x)
    expected = answer(np.delete(held_out, going, 0), x)
    both = ~np.isnan(found) & ~np.isnan(expected)
    assert both.sum() > 100
    np.testing.assert_array_equal(found[both], expected[both])
