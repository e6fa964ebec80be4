"""`/elbo`: the bounds, their scores and p-values, and where they come from."""

import httpx
import numpy as np
import pytest

from service.bundle import BOUNDS, Bundle
from service.engine import OnnxEngine
from service.scoring import discoveries, p_values
from tests.service.http_client import Array, assert_problem, assert_same, post, send_request

COLUMNS = [*BOUNDS, "score", "p_value"]


def test_elbo_answers_the_bounds(digits: httpx.Client, digits_bundle: Bundle) -> None:
    golden = digits_bundle.golden["elbo"]
    answer = send_request(digits, "/elbo", golden["x"], binary=True)
    assert list(answer) == COLUMNS
    assert all(values.dtype == np.float64 and values.shape == (4,) for values in answer.values())
    for name in BOUNDS:
        np.testing.assert_allclose(answer[name], golden[name], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(answer["elbo"], answer["log_likelihood"] - answer["kl"], rtol=1e-9)
    assert np.all(answer["log_evidence"] >= answer["elbo"])
    assert np.all((answer["ess"] >= 1 / digits_bundle.manifest.num_draws) & (answer["ess"] <= 1))
    assert np.all(answer["standard_error"] > 0)


def test_one_draw_has_no_standard_error(digits: httpx.Client, x: Array) -> None:
    answer = post(digits, "/elbo", x, num_draws=1).json()
    assert answer["standard_error"] == [None] * 5
    assert answer["ess"] == [1.0] * 5


@pytest.mark.parametrize(
    ("score", "bound"), [(None, "elbo"), ("negative_elbo", "elbo"), ("negative_log_evidence", "log_evidence")]
)
def test_scores_and_their_p_values(digits: httpx.Client, digits_bundle: Bundle, score: str | None, bound: str) -> None:
    rows = np.concatenate([digits_bundle.golden["elbo"]["x"], np.full((1, 8, 8), 16, np.uint8)])
    answer = send_request(digits, "/elbo", rows, binary=True, **({"score": score} if score else {}))
    np.testing.assert_array_equal(answer["score"], -answer[bound])
    held_out = digits_bundle.calibration[score or "negative_elbo"]
    by_hand = [(1 + np.sum(held_out >= value)) / (len(held_out) + 1) for value in answer["score"]]
    np.testing.assert_array_equal(answer["p_value"], by_hand)
    np.testing.assert_array_equal(answer["p_value"], p_values(answer["score"], held_out))
    assert answer["p_value"][-1] == 1 / (len(held_out) + 1)
    assert answer["p_value"][:-1].max() > 0.05


def test_p_values_are_given_only_where_they_are_valid(digits: httpx.Client, digits_bundle: Bundle, x: Array) -> None:
    manifest = digits_bundle.manifest
    draws, seed = manifest.num_draws, manifest.seed
    for query in ({}, {"seed": seed}, {"num_draws": draws}, {"seed": seed, "num_draws": draws}):
        assert None not in post(digits, "/elbo", x, **query).json()["p_value"]
    for query in ({"seed": seed + 1}, {"num_draws": draws - 1}, {"num_draws": draws + 1, "seed": seed}, {"refine": 2}):
        assert post(digits, "/elbo", x, **query).json()["p_value"] == [None] * len(x)


@pytest.mark.parametrize("score", ["typicality", "multiscale_residual"])
def test_scores_without_draws_have_p_values_under_any(
    digits: httpx.Client, digits_bundle: Bundle, x: Array, score: str
) -> None:
    engine = OnnxEngine(digits_bundle.manifest.graphs, digits_bundle.files, "cpu")
    expected = engine.run("scores", {"x": x})[score]
    for query in ({}, {"seed": 5}, {"num_draws": 3, "refine": 1}):
        answer = send_request(digits, "/elbo", x, binary=True, score=score, **query)
        np.testing.assert_array_equal(answer["score"], expected)
        np.testing.assert_array_equal(answer["p_value"], p_values(expected, digits_bundle.calibration[score]))


def test_discoveries_are_made_over_the_request(digits: httpx.Client, digits_bundle: Bundle) -> None:
    usual = digits_bundle.golden["elbo"]["x"]
    checked = (16 * (np.indices((6, 8, 8)).sum(0) % 2)).astype(np.uint8)
    rows = np.concatenate([usual, checked])
    answer = send_request(digits, "/elbo", rows, binary=True, fdr=0.02)
    np.testing.assert_array_equal(answer["discovery"], discoveries(answer["p_value"], 0.02))
    assert answer["discovery"].tolist() == [False] * len(usual) + [True] * len(checked)
    assert "discovery" not in send_request(digits, "/elbo", rows)
    none = post(digits, "/elbo", rows, fdr=0.002)
    assert not any(none.json()["discovery"])
    assert none.headers["Lowerbound-No-Discovery"] == (
        "with 359 held-out rows no p-value is below 0.0028; at q = 0.002 no row can be called: it takes a larger q or "
        "more held-out rows"
    )
    few = post(digits, "/elbo", usual, fdr=0.005)
    assert few.headers["Lowerbound-No-Discovery"] == (
        "with 359 held-out rows no p-value is below 0.0028; at q = 0.005 and 4 rows at least 3 rows must be that "
        "strange, and 0 are"
    )
    assert "Lowerbound-No-Discovery" not in post(digits, "/elbo", rows, fdr=0.02).headers
    refused = post(digits, "/elbo", rows, fdr=0.02, seed=5)
    assert_problem(refused, 422, "without valid p-values", "query.fdr")


def test_explanations_add_up(digits: httpx.Client, digits_bundle: Bundle) -> None:
    rows = digits_bundle.golden["elbo"]["x"]
    for query in ({}, {"num_draws": 5, "seed": 9}):
        answer = send_request(digits, "/elbo", rows, binary=True, explain=True, **query)
        assert list(answer) == [*COLUMNS, "feature_log_likelihood", "latent_kl"]
        assert answer["feature_log_likelihood"].shape == (4, 8, 8)
        assert answer["latent_kl"].shape == (4, digits_bundle.manifest.latent_size)
        total = answer["feature_log_likelihood"].sum(axis=(1, 2))
        np.testing.assert_allclose(total, answer["log_likelihood"], rtol=1e-6)
        np.testing.assert_allclose(answer["latent_kl"].sum(axis=1), answer["kl"], rtol=1e-6)
        plain = send_request(digits, "/elbo", rows, binary=True, **query)
        assert_same({name: answer[name] for name in plain}, plain)


def test_more_draws_raise_the_bound_and_narrow_the_error(digits: httpx.Client, digits_bundle: Bundle) -> None:
    rows = digits_bundle.golden["elbo"]["x"]
    few, many = (send_request(digits, "/elbo", rows, binary=True, num_draws=draws) for draws in (2, 2048))
    assert many["log_evidence"].mean() > few["log_evidence"].mean()
    assert np.all(many["standard_error"] < few["standard_error"].max())
    difference = np.abs(many["elbo"] - send_request(digits, "/elbo", rows, binary=True, num_draws=2048, seed=1)["elbo"])
    assert np.all(difference < 5 * many["standard_error"])
