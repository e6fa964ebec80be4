"""Baselines against closed forms on data whose distribution is known, and on every kind of data."""

import numpy as np
import pytest
from scipy import stats

from service.bundle import NumericColumn, TabularInput
from tests.oracle.linear_gaussian import LinearGaussian
from tests.training.kinds import KINDS
from training.evaluation.baselines import (
    BASELINES,
    NearestNeighbours,
    ProbabilisticPCA,
    SumOfSquares,
    baseline_scores,
)

ROWS = np.random.default_rng(0).standard_normal((400, 3)) * [1.0, 10.0, 0.1] + [5.0, 0.0, -2.0]


def test_the_sum_of_squares_is_in_standard_deviations() -> None:
    shifts = np.array([[0.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    scores = SumOfSquares(ROWS, seed=0).score(ROWS.mean(0) + shifts * ROWS.std(0))
    np.testing.assert_allclose(scores, [0.0, 4.0], atol=1e-12)


def test_a_constant_feature_counts_in_its_own_units() -> None:
    rows = np.column_stack([ROWS, np.full(len(ROWS), 7.0)])
    model = SumOfSquares(rows, seed=0)
    shifts = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 3.0]])
    np.testing.assert_allclose(model.score(rows.mean(0) + shifts), [0.0, 9.0], atol=1e-12)


def test_probabilistic_pca_finds_the_components_and_the_density() -> None:
    size = 12
    truth = LinearGaussian.make(
        bias=np.linspace(-1, 1, size), sigma=np.full(size, 0.5), strengths=np.array([6.0, 5.0, 4.0, 3.0])
    )
    model = ProbabilisticPCA(truth.sample(20_000, seed=0), seed=0)
    assert model.pca.n_components_ == 4
    x = truth.sample(500, seed=1)
    assert np.abs(-model.score(x) - truth.log_evidence(x)).mean() < 0.06


def test_probabilistic_pca_of_rank_one_is_finite() -> None:
    line = np.outer(np.random.default_rng(1).standard_normal(50), [1.0, 2.0, -1.0])
    model = ProbabilisticPCA(line, seed=0)
    assert model.pca.n_components_ == 0
    assert np.isfinite(model.score(line)).all()


def test_the_distance_is_to_the_fifth_neighbour() -> None:
    model = NearestNeighbours(np.arange(10.0)[:, None], seed=0)
    np.testing.assert_allclose(model.score(np.array([[0.0], [20.0], [4.5]])), [4.0, 15.0, 2.5])


@pytest.mark.parametrize("name", BASELINES)
def test_far_rows_are_more_anomalous(name: str) -> None:
    rng = np.random.default_rng(2)
    model = BASELINES[name](rng.standard_normal((500, 2)), seed=0)
    near, far = model.score(rng.standard_normal((200, 2))), model.score(8 + rng.standard_normal((200, 2)))
    assert stats.mannwhitneyu(far, near).statistic / (200 * 200) > 0.99


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BASELINES)
def test_every_kind_of_data_has_every_baseline(name: str, kind: str) -> None:
    example = KINDS[kind]
    train, new = example.rows[:60], example.rows[60:]
    scores = baseline_scores(BASELINES[name], example.data, train, new, seed=0)
    assert scores.shape == (len(new),)
    assert np.isfinite(scores).all()
    assert np.ptp(scores) > 0


def test_units_of_a_table_do_not_matter() -> None:
    data = TabularInput(columns=tuple(NumericColumn(name=name) for name in "abc"))
    usual = baseline_scores(NearestNeighbours, data, ROWS[:300], ROWS[300:], seed=0)
    scaled = baseline_scores(NearestNeighbours, data, 1000 * ROWS[:300] + 5, 1000 * ROWS[300:] + 5, seed=0)
    np.testing.assert_allclose(usual, scaled, rtol=1e-4)
