"""Refinement over HTTP: it never falls, ends where the closed form says, and is the very ascent that PyTorch makes."""

import numpy as np
import pytest
import torch

from service.scoring import first_state, noise
from service.scoring.refinement import STATE
from tests.oracle.conftest import NUM_DRAWS, Served
from tests.oracle.linear_gaussian import Array
from tests.oracle.trained import REFINE
from training.export.refinement import Refinement

CONVERGED = 150


def ascent_in_torch(served: Served, steps: int) -> Array:
    """The ELBO before each of T steps and after the last, (T + 1, rows), by autograd."""
    assert served.vae is not None
    x = torch.from_numpy(served.x.reshape(-1, *served.shape))
    x = x.float() if len(served.shape) > 1 else x
    base_samples = torch.from_numpy(noise.base_samples(0, NUM_DRAWS, served.vae.prior.latent_size))
    with torch.no_grad():
        mean, log_variance = (tensor.numpy() for tensor in served.vae.posterior(x))
    state = {name: torch.from_numpy(a) for name, a in first_state({"mean": mean, "log_variance": log_variance}).items()}
    step = Refinement(served.vae)
    elbos = []
    for _ in range(steps + 1):
        elbo, *_, mean_, log_variance_, first, second, count = step(x, base_samples, *state.values())
        elbos.append(elbo.numpy())
        state = dict(zip(STATE, (mean_, log_variance_, first, second, count), strict=True))
    return np.array(elbos)


@pytest.mark.parametrize("served", ["table", "image-wrong"], indirect=True)
def test_the_bound_never_falls(served: Served) -> None:
    plain = served.about("elbo")
    last = plain["elbo"]
    for steps in (0, 1, 2, 5, 20):
        answer = served.about("elbo", refine=steps)
        assert (answer["elbo"] >= last).all()
        last = answer["elbo"]
        if steps:
            assert (answer["regret"] == answer["elbo"] - plain["elbo"]).all()
        else:
            assert "regret" not in answer
        np.testing.assert_allclose(answer["elbo"], answer["log_likelihood"] - answer["kl"], atol=1e-9)


@pytest.mark.parametrize("served", ["image-wrong"], indirect=True)
def test_it_ends_at_the_exact_posterior(served: Served) -> None:
    """The posterior is diagonal here, so the best q closes the whole gap, but for the error of the draws."""
    answer = served.about("elbo", refine=CONVERGED, num_draws=512)
    gap = served.truth.log_evidence(served.x) - served.truth.elbo(served.x)
    assert (gap > 0.1).all()
    np.testing.assert_allclose(answer["elbo"], served.truth.log_evidence(served.x), atol=0.01)
    np.testing.assert_allclose(answer["regret"], gap, atol=0.02)
    assert (answer["ess"] > 0.98).all()


@pytest.mark.parametrize("served", ["table", "image-wrong"], indirect=True)
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_it_is_the_same_ascent_as_in_torch(served: Served, steps: int) -> None:
    expected = ascent_in_torch(served, steps).max(0)
    np.testing.assert_allclose(served.about("elbo", refine=steps)["elbo"], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("served", ["table", "image-wrong"], indirect=True)
def test_the_regret_is_calibrated_at_its_own_steps(served: Served) -> None:
    answer = served.about("elbo", score="regret")
    assert (answer["score"] == answer["regret"]).all()
    assert (answer["score"] == served.about("elbo", refine=REFINE)["regret"]).all()
    assert ((answer["p_value"] > 0) & (answer["p_value"] <= 1)).all()
    assert np.isnan(served.about("elbo", score="regret", refine=REFINE + 1)["p_value"]).all()
    # A refined ELBO is another score than the calibrated one.
    assert np.isnan(served.about("elbo", score="negative_elbo", refine=REFINE)["p_value"]).all()


@pytest.mark.parametrize("served", ["brought"], indirect=True)
def test_a_bundle_without_the_graph_says_so(served: Served) -> None:
    body = {"instances": served.x.tolist()}
    for query, location in (({"refine": 3}, "query.refine"), ({"score": "regret"}, "query.score")):
        problem = served.client.post(f"/models/{served.name}/elbo", json=body, params=query)
        assert problem.status_code == 422
        assert problem.json()["location"] == location
    assert "regret" not in served.about("elbo", refine=0)
