"""Everything the service answers about a linear-Gaussian VAE, held to the closed form, over HTTP."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.table import Table
from scipy import stats

from service.scoring import ROUNDS, noise
from tests.conftest import Serve
from tests.oracle import bring_your_own
from tests.oracle.conftest import NUM_DRAWS, PIXELS, Served
from tests.oracle.linear_gaussian import Array

MANY = 2**16
"""Draws after which the Monte Carlo error of Sobol points is below the tolerance."""

NATS_PER_DIMENSION = 1e-4


def close(served: Served, measured: Array, expected: Array) -> None:
    np.testing.assert_allclose(measured, expected, rtol=0, atol=NATS_PER_DIMENSION * served.x.shape[1])


def test_elbo_is_log_evidence_less_the_divergence_from_the_posterior(served: Served) -> None:
    answer = served.about("elbo", num_draws=MANY)
    close(served, answer["elbo"], served.truth.elbo(served.x))
    close(served, answer["log_evidence"], served.truth.log_evidence(served.x))
    gap = served.truth.log_evidence(served.x) - served.truth.elbo(served.x)
    if "wrong" in served.name:
        assert (gap > 0.1).all()
    else:
        np.testing.assert_allclose(gap, 0, atol=1e-9)
        close(served, answer["elbo"], served.truth.log_evidence(served.x))


def test_few_draws_miss_the_elbo_by_their_standard_error(served: Served) -> None:
    expected = served.truth.elbo(served.x)
    answers = [served.about("elbo", num_draws=16, seed=seed) for seed in range(40)]
    errors = np.array([(answer["elbo"] - expected) / answer["standard_error"] for answer in answers])
    assert np.abs(errors).max() < 4
    # Sobol points do better than the independent ones that the standard error is for; and they are not all the same.
    assert (np.sqrt((errors**2).mean(0)) < 1.2).all()
    assert (errors.std(0) > 0.01).all()
    means = np.array([answer["elbo"] for answer in answers])
    standard_error = means.std(0, ddof=1) / math.sqrt(len(means))
    assert (np.abs(means.mean(0) - expected) < 3 * standard_error + 1e-5).all()


def test_standard_error_is_that_of_the_draws(served: Served) -> None:
    answer = served.about("elbo", num_draws=2**12)
    expected = served.truth.deviation(served.x) / math.sqrt(2**12)
    np.testing.assert_allclose(answer["standard_error"], expected, rtol=0.02)
    assert np.isnan(served.about("elbo", num_draws=1)["standard_error"]).all()


@pytest.mark.parametrize("served", ["table", "brought"], indirect=True)
def test_at_the_exact_posterior_every_weight_is_the_evidence(served: Served) -> None:
    for num_draws in (1, 2, 64):
        answer = served.about("elbo", num_draws=num_draws, seed=5)
        close(served, answer["log_evidence"], served.truth.log_evidence(served.x))
        np.testing.assert_allclose(answer["ess"], 1, atol=1e-6)


@pytest.mark.parametrize("served", ["image-wrong", "brought-wrong"], indirect=True)
def test_importance_weighted_bound_rises_to_the_evidence(served: Served) -> None:
    seeds, counts = range(48), (1, 4, 16, 64, 512)
    truth = served.truth.log_evidence(served.x)
    bounds, shares = np.empty((2, len(counts), len(seeds), len(served.x)))
    for i, num_draws in enumerate(counts):
        for seed in seeds:
            answer = served.about("elbo", num_draws=num_draws, seed=seed)
            bounds[i, seed], shares[i, seed] = answer["log_evidence"], answer["ess"]
    standard_error = bounds.std(1, ddof=1) / math.sqrt(len(seeds))
    means = bounds.mean(1)
    rise = np.diff(bounds, axis=0)
    assert (rise.mean(1) > -3 * rise.std(1, ddof=1) / math.sqrt(len(seeds))).all()
    assert (means < truth + 3 * standard_error).all()
    # With one draw it is the ELBO; that is well below; with many the evidence is reached.
    assert (np.abs(means[0] - served.truth.elbo(served.x)) < 3 * standard_error[0]).all()
    assert (means[0] < truth - 0.1).all()
    assert (np.abs(means[-1] - truth) < 3 * standard_error[-1] + 1e-3).all()
    assert (np.abs(means[-1] - truth) < 0.01).all()
    np.testing.assert_allclose(shares[0], 1)
    assert (shares[1:] < 1).all()
    assert (shares > 1 / np.array(counts)[:, None, None] - 1e-12).all()


def test_kl_and_reconstruction(served: Served) -> None:
    answer = served.about("elbo", num_draws=MANY)
    np.testing.assert_allclose(answer["kl"], served.truth.kl(served.x), rtol=1e-5, atol=1e-5)
    close(served, answer["log_likelihood"], served.truth.feature_log_likelihood(served.x).sum(-1))
    np.testing.assert_allclose(answer["elbo"], answer["log_likelihood"] - answer["kl"], atol=1e-9)


@pytest.mark.parametrize("served", ["table", "image-wrong"], indirect=True)
def test_explanation_adds_up(served: Served) -> None:
    answer = served.about("elbo", num_draws=MANY, explain=True)
    features = answer["feature_log_likelihood"].reshape(len(served.x), -1)
    np.testing.assert_allclose(features, served.truth.feature_log_likelihood(served.x), atol=NATS_PER_DIMENSION)
    np.testing.assert_allclose(features.sum(-1), answer["log_likelihood"], atol=1e-6)
    mean, variance = served.truth.encode(served.x), served.truth.variance
    by_latent = 0.5 * (mean**2 + variance - 1 - np.log(variance))
    np.testing.assert_allclose(answer["latent_kl"], by_latent, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(answer["latent_kl"].sum(-1), answer["kl"], atol=1e-6)


@pytest.mark.parametrize("served", ["table"], indirect=True)
def test_a_surprise_is_the_log_ratio_of_the_conditional_density(served: Served) -> None:
    x = served.x.copy()
    x[1, 3] += 10 * served.truth.sigma[3]
    answer = served.about("elbo", x, num_draws=MANY, explain=True)
    for column in range(x.shape[1]):
        filled = x.copy()
        filled[:, column] = answer["feature_expected"][:, column]
        # The others' density cancels: this is log p(expected | others) − log p(observed | others).
        ratio = served.truth.log_evidence(filled) - served.truth.log_evidence(x)
        close(served, answer["feature_surprise"][:, column], ratio)
    assert np.argmax(answer["feature_surprise"][1]) == 3


@pytest.mark.parametrize("served", ["table"], indirect=True)
def test_what_is_expected_nears_the_conditional_mean(served: Served) -> None:
    # Each round is a step of EM for a missing x_d, from the mean that the encoder takes it for at first: what is left
    # of the error is the share of the posterior's precision that x_d itself gives.
    truth, vae = served.truth, served.vae
    assert vae is not None
    leverage = truth.weight**2 @ truth.variance / truth.sigma**2
    mean = truth.conditional_mean(served.x)
    expected = mean + leverage**ROUNDS * (vae.features.location.numpy() - mean)
    found = served.about("elbo", explain=True)["feature_expected"]
    np.testing.assert_allclose((found - expected) / truth.sigma, 0, atol=1e-3)
    assert (np.abs(found - mean) < 0.2 * np.abs(vae.features.location.numpy() - mean)).all()


@pytest.mark.parametrize("served", ["table"], indirect=True)
def test_missing_cells_surprise_nobody(served: Served) -> None:
    x = served.x.copy()
    x[0, 2] = np.nan
    instances = [[None if np.isnan(cell) else cell for cell in row] for row in x.tolist()]
    answer = served.post("elbo", {"instances": instances}, explain=True)
    assert answer["feature_surprise"][0, 2] == 0
    assert np.isfinite(answer["feature_expected"]).all()
    assert np.count_nonzero(answer["feature_surprise"]) == x.size - 1


@pytest.mark.parametrize("served", ["table"], indirect=True)
def test_cells_are_work_to_be_admitted(served: Served) -> None:
    body = {"instances": np.repeat(served.x, 2, axis=0).tolist()}
    query = {"num_draws": MANY, "explain": True}
    refused = served.client.post("/models/table/elbo", json=body, params=query)
    assert refused.status_code == 413  # 6 rows, each once whole and once for each of 5 cells, with 65,536 draws.
    assert refused.json()["location"] == "query.explain"
    # One row with 30 steps, or with 5 cells, fits; with both it does not.
    both = served.client.post(
        "/models/table/elbo", json={"instances": body["instances"][:1]}, params=query | {"refine": 30}
    )
    assert both.status_code == 413
    assert "with 30 steps of refinement and once for each of 5 cells" in both.json()["detail"]


@pytest.mark.parametrize("served", ["table"], indirect=True)
def test_the_protocol_explains_cells_too(served: Served) -> None:
    model = "/v2/models/table.explain"
    described = {output["name"]: output["shape"] for output in served.client.get(model).json()["outputs"]}
    assert described["feature_surprise"] == described["feature_expected"] == [-1, 5]
    assert served.client.get(f"{model}/config").json()["max_batch_size"] == 2**21 // (NUM_DRAWS * 6)
    sent = {"name": "x", "datatype": "FP64", "shape": [3, 5], "data": served.x.ravel().tolist()}
    outputs = served.client.post(f"{model}/infer", json={"inputs": [sent]}).raise_for_status().json()["outputs"]
    answer = served.about("elbo", explain=True)
    for output in outputs:
        assert output["shape"] == [3, *described[output["name"]][1:]]
        np.testing.assert_array_equal(output["data"], answer[output["name"]].ravel())


def test_a_row_alone_is_the_row_among_others(served: Served) -> None:
    x = np.concatenate([served.x, served.x + 0.1, served.x[::-1] + 0.3, served.x[:2]])
    for explain in (
        [False] if served.vae is None else [False, True]
    ):  # What was brought from elsewhere explains nothing.
        together = served.about("elbo", x, explain=explain)
        for i, row in enumerate(x):
            alone = served.about("elbo", row[None], explain=explain)
            assert {n: v[i].tobytes() for n, v in together.items()} == {n: v[0].tobytes() for n, v in alone.items()}


BLOCKED = """
import runpy, sys
class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {"torch", "training", "onnxscript", "sklearn", "pyarrow"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
script, *sys.argv[1:] = sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""


def test_the_example_runs_without_the_trainer(tmp_path: Path, serve: Serve) -> None:
    rows = PIXELS.sample(400, seed=3)
    np.save(tmp_path / "rows.npy", rows)
    command = [
        sys.executable,
        "-c",
        BLOCKED,
        bring_your_own.__file__,
        str(tmp_path / "rows.npy"),
        str(tmp_path / "models"),
    ]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    fitted = bring_your_own.fit(rows[::2], latent_size=2)
    covariance = fitted["W"].T @ fitted["W"] + np.diag(fitted["sigma"] ** 2)
    expected = stats.multivariate_normal(fitted["b"], covariance).logpdf(rows[:5])
    with serve("--models", str(tmp_path / "models"), "--device", "cpu") as client:
        answer = client.post("/elbo", json={"instances": rows[:5].tolist()}).raise_for_status().json()
    np.testing.assert_allclose(answer["log_evidence"], expected, atol=1e-6)
    assert min(answer["p_value"]) > 0


def test_encode(served: Served) -> None:
    answer = served.about("encode", num_draws=5, seed=3)
    mean, deviation = served.truth.encode(served.x), np.sqrt(served.truth.variance)
    np.testing.assert_allclose(answer["mean"], mean, rtol=1e-4, atol=1e-5)
    log_variance = np.broadcast_to(np.log(served.truth.variance), mean.shape)
    np.testing.assert_allclose(answer["log_variance"], log_variance, atol=1e-5)
    epsilon = noise.base_samples(3, 5, mean.shape[1])
    np.testing.assert_allclose(answer["draws"], mean[:, None] + deviation * epsilon, rtol=1e-4, atol=1e-4)


def test_decode(served: Served) -> None:
    z = np.random.default_rng(0).standard_normal((4, len(served.truth.variance))).round(3)
    answer = served.post("decode", {"latents": z.tolist()})["instances"].reshape(len(z), -1)
    error = (answer - served.truth.decode(z)) / served.truth.sigma
    assert np.abs(error).max() < 1e-4


@pytest.mark.parametrize("served", ["table", "image-wrong"], indirect=True)
def test_draws_from_the_decoder_have_its_moments(served: Served) -> None:
    n = 20_000
    z = np.array([0.5, -1.0, 2.0])[: len(served.truth.variance)]
    draws = served.post("decode", {"latents": [z.tolist()] * n}, draw=True, seed=1)["instances"].reshape(n, -1)
    standard = (draws - served.truth.decode(z)) / served.truth.sigma
    assert np.abs(standard.mean(0)).max() < 4 / math.sqrt(n)
    assert np.abs(standard.var(0) - 1).max() < 4 * math.sqrt(2 / n)
    correlation = np.corrcoef(standard.T) - np.eye(standard.shape[1])
    assert np.abs(correlation).max() < 4.5 / math.sqrt(n)
    again = served.post("decode", {"latents": [z.tolist()] * n}, draw=True, seed=2)["instances"].reshape(n, -1)
    assert not np.isclose(again, draws, rtol=1e-9, atol=0).any(1).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 0.0])
def test_samples_have_the_prior_s_moments(served: Served, temperature: float) -> None:
    n = 20_000
    answer = served.client.get(
        f"/models/{served.name}/sample", params={"n": n, "temperature": temperature, "seed": 4}
    ).json()
    z = np.array(answer["latents"])
    instances = answer["instances"]
    x = np.array([list(i.values()) for i in instances] if isinstance(instances[0], dict) else instances).reshape(n, -1)
    assert np.abs(z.mean(0)).max() <= 4 * temperature / math.sqrt(n)
    assert np.abs(np.cov(z.T) - temperature**2 * np.eye(z.shape[1])).max() <= 4 * temperature**2 * math.sqrt(2 / n)
    np.testing.assert_allclose(
        (x - served.truth.decode(z)) / served.truth.sigma, np.zeros_like(x), atol=1e-4 * (1 + np.abs(z).max())
    )


@pytest.mark.parametrize("served", ["table", "image-wrong"], indirect=True)
def test_answers_are_those_of_torch(served: Served) -> None:
    assert served.vae is not None
    data = np.float32 if len(served.shape) > 1 else np.float64
    x = torch.from_numpy(served.x.astype(data).reshape(-1, *served.shape))
    base_samples = torch.from_numpy(noise.base_samples(0, NUM_DRAWS, len(served.truth.variance)))
    with torch.no_grad():
        expected = served.vae.bounds(x, base_samples)
        mean, log_variance = served.vae.posterior(x)
        decoded = served.vae.likelihood.mean(served.vae.decoder(mean))
    answer = served.about("elbo")
    for name, values in expected._asdict().items():
        np.testing.assert_allclose(answer[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
    encoded = served.about("encode")
    np.testing.assert_allclose(encoded["mean"], mean, atol=1e-5)
    np.testing.assert_allclose(encoded["log_variance"], log_variance, atol=1e-5)
    answer = served.post("decode", {"latents": encoded["mean"].tolist()})
    np.testing.assert_allclose(answer["instances"].reshape(len(mean), -1), decoded, rtol=1e-5, atol=1e-5)


def test_the_table_of_the_oracle(served: Served) -> None:
    """`pytest -s -k table_of_the_oracle` prints expected, measured and error; the assertion is of the largest error."""
    answer = served.about("elbo", num_draws=MANY)
    expected = {
        "elbo": served.truth.elbo(served.x),
        "log_evidence": served.truth.log_evidence(served.x),
        "log_likelihood": served.truth.feature_log_likelihood(served.x).sum(-1),
        "kl": served.truth.kl(served.x),
    }
    table = Table("quantity", "row", "expected", "measured", "error", title=f"{served.name}, K = {MANY:,}, nats")
    for name, values in expected.items():
        for row, (wanted, found) in enumerate(zip(values, answer[name], strict=True)):
            table.add_row(name, str(row), f"{wanted:.6f}", f"{found:.6f}", f"{found - wanted:+.1e}")
    Console(width=100).print(table)
    worst = max(np.abs(answer[name] - values).max() for name, values in expected.items())
    assert worst < NATS_PER_DIMENSION * served.x.shape[1]
