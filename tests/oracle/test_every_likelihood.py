"""Every likelihood under every prior, through its exported graph, held to quadrature over the one latent it has."""

import logging
from dataclasses import asdict, dataclass

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from service.engine import OnnxEngine
from service.scoring import noise
from tests.oracle import quadrature
from tests.oracle.linear_gaussian import Array
from tests.oracle.quadrature import GRID, LOG_DENSITIES, Truth
from tests.training.kinds import KINDS
from training.export.graphs import graph_modules
from training.export.onnx import export_graphs
from training.model import LIKELIHOODS, PRIORS, ModelRecipe
from training.model.build import build

pytestmark = pytest.mark.slow  # A graph is exported for each likelihood and prior.

ROWS = 5
MANY = 2**14
NATS_PER_DIMENSION = 5e-6

IMAGES = {
    "bernoulli": "binary image",
    "continuous_bernoulli": "continuous image",
    "discretized_logistic": "grey levels",
    "categorical": "grey levels",
}


@dataclass(frozen=True)
class Case:
    """A likelihood under a prior: what quadrature says and what the graph answers, for `ROWS` rows of D features."""

    name: str
    features: int
    truth: Truth
    answer: dict[str, Array]


@pytest.fixture(
    scope="module", params=[(likelihood, prior) for likelihood in LIKELIHOODS for prior in PRIORS], ids="-".join
)
def case(request: pytest.FixtureRequest) -> Case:
    name, prior = request.param
    kind = KINDS[IMAGES.get(name, "mixed table" if name.startswith("mixed") else "numbers")]
    recipe = ModelRecipe(widths=(1,), latent_size=1, likelihood=name, prior=prior)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # It tells of optional packages.
    vae = build(recipe, kind.data, kind.rows, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in vae.likelihood.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
        # Affine networks; and a q that is not the posterior, and wider than the prior, so that weights are bounded.
        vae.encoder, vae.decoder = nn.Linear(vae.features.num_features, 2), nn.Linear(1, vae.likelihood.num_params)
        for network, size in ((vae.encoder, 0.1), (vae.decoder, 0.2)):
            for parameter in network.parameters():
                parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
        vae.encoder.bias += torch.tensor([0.3, 1.0])
        x = torch.from_numpy(kind.rows[:ROWS])
        mean, log_variance = (tensor[:, 0].double().numpy() for tensor in vae.posterior(x))
        # Whatever the prior, its density over the grid must be one; which it is the tests of priors say.
        log_prior = vae.prior.log_prob(torch.from_numpy(GRID)[:, None]).numpy()
    assert np.trapezoid(np.exp(log_prior), GRID) == pytest.approx(1, abs=1e-9)
    weight, bias = vae.decoder.weight[:, 0], vae.decoder.bias
    log_likelihood = quadrature.log_likelihood(
        name,
        weight.detach().double().numpy(),
        bias.detach().double().numpy(),
        kind.rows[:ROWS].reshape(ROWS, -1).astype(np.float64),
        kind,
        {key: tensor.double().numpy() for key, tensor in vae.likelihood.state_dict().items()},
    )
    module = graph_modules(vae, kind.data, kind.rows)["elbo"]
    engine = OnnxEngine(*export_graphs({"elbo": module}, kind.data, 1), "cpu")
    answer = engine.run("elbo", {"x": kind.rows[:ROWS], "noise": noise.base_samples(0, MANY, 1)})
    expected = quadrature.truth(log_likelihood, log_prior, mean, log_variance)
    return Case(f"{name}, {prior}", len(kind.data.features), expected, answer)


def test_every_likelihood_is_written_down_here() -> None:
    assert LOG_DENSITIES.keys() == LIKELIHOODS.keys()


def test_the_bounds_are_those_of_quadrature(case: Case) -> None:
    """`pytest -s -k those_of_quadrature` prints the first row and the largest error; the assertion is of the latter."""
    table = Table("quantity", "expected", "measured", "error", "largest", title=f"{case.name}, K = {MANY:,}, nats")
    rounding = NATS_PER_DIMENSION * case.features
    # Weights are bounded; what is averaged over so wide a q is not, and Sobol points feel its tails.
    tolerances = {
        "elbo": rounding + 0.05 * case.answer["standard_error"],
        "log_evidence": rounding,
        "log_likelihood": rounding + 0.05 * case.answer["standard_error"],
        "kl": 1e-4,
    }
    errors = {name: case.answer[name] - asdict(case.truth)[name] for name in tolerances}
    for name, error in errors.items():
        wanted, found = asdict(case.truth)[name][0], case.answer[name][0]
        table.add_row(name, f"{wanted:.6f}", f"{found:.6f}", f"{error[0]:+.1e}", f"{np.abs(error).max():.1e}")
    Console(width=100).print(table)
    assert case.truth.divergence.mean() > 0.05
    assert case.answer["standard_error"].mean() < 0.2
    for name, tolerance in tolerances.items():
        assert (np.abs(errors[name]) < tolerance).all(), name
