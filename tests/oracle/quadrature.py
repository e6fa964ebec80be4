"""The oracle of every likelihood: a VAE with one latent, of which quadrature knows everything.

    z ~ p(z)        x | z ~ p(x; params = W z + b)        q(z|x) = N(μ, σ²)

Integrals over z are sums over a fine grid in float64. The likelihoods are written down once more from their
definitions, with NumPy and SciPy, and never with the code that is tested.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special, stats

from service.bundle import CategoricalColumn, ImageInput, TabularInput
from tests.oracle.linear_gaussian import Array
from tests.training.kinds import Kind

GRID = np.linspace(-25, 25, 10_001)
"""So fine and so wide that the trapezoidal rule is exact."""

State = dict[str, Array]
"""A likelihood's own parameters, by name."""


@dataclass(frozen=True)
class Truth:
    """The result of quadrature for each row, (rows,), nats."""

    elbo: Array
    log_evidence: Array
    log_likelihood: Array
    kl: Array
    divergence: Array
    """KL(q(z|x) ‖ p(z|x))."""


def truth(log_likelihood: Array, log_prior: Array, mean: Array, log_variance: Array) -> Truth:
    """Every integral for log p(x|z) (rows, grid), log p(z) (grid,) and q (rows,)."""
    log_q = stats.norm(mean[:, None], np.exp(0.5 * log_variance)[:, None]).logpdf(GRID)
    log_evidence = special.logsumexp(log_likelihood + log_prior, axis=1) + math.log(GRID[1] - GRID[0])
    log_posterior = log_likelihood + log_prior - log_evidence[:, None]
    # The ends of the grid hold nothing, so that the sum is the trapezoidal rule.
    assert max(np.exp(log_q)[:, [0, -1]].max(), np.exp(log_posterior)[:, [0, -1]].max()) < 1e-12

    def expectation(values: Array) -> Array:
        return np.asarray(np.trapezoid(np.exp(log_q) * values, GRID))

    divergence = expectation(log_q - log_posterior)
    return Truth(
        elbo=log_evidence - divergence,
        log_evidence=log_evidence,
        log_likelihood=expectation(log_likelihood),
        kl=expectation(log_q - log_prior),
        divergence=divergence,
    )


def _moments(kind: Kind, numeric: list[int]) -> tuple[Array, Array]:
    """Location and scale of each feature, or of the numeric columns."""
    if isinstance(kind.data, ImageInput):
        return np.array(kind.data.low), np.array(kind.data.high - kind.data.low)
    return np.nanmean(kind.rows[:, numeric], axis=0), np.nanstd(kind.rows[:, numeric], axis=0)


def _gaussian(sigma: Callable[[Array, State], tuple[Array, Array]]) -> Callable[..., Array]:
    def log_density(params: Array, x: Array, kind: Kind, state: State) -> Array:
        location, scale = _moments(kind, list(range(len(x))))
        mean, deviation = sigma(params, state)
        return np.asarray(stats.norm(location + scale * mean, scale * deviation).logpdf(x))

    return log_density


def _asinh(params: Array, x: Array, kind: Kind, state: State) -> Array:
    low, centre, high = np.nanpercentile(kind.rows, (25, 50, 75), axis=0)
    width = 3 * (high - low) / 1.349
    place = np.arcsinh((kind.rows - centre) / width)
    location, scale = np.nanmean(place, axis=0), np.nanstd(place, axis=0)
    deviation = FLOOR + np.exp(state["free_log_sigma"])
    # S_U of Johnson 1949: asinh((x − centre)/width) is normal.
    return np.asarray(
        stats.johnsonsu(
            -(location + scale * params) / (scale * deviation), 1 / (scale * deviation), centre, width
        ).logpdf(x)
    )


FLOOR = 0.01
"""The range of σ in units of the scale, for columns of real numbers."""


def _learned(params: Array, state: State) -> tuple[Array, Array]:
    return params, FLOOR + np.exp(state["free_log_sigma"])


def _fixed(params: Array, state: State) -> tuple[Array, Array]:
    return params, np.sqrt(0.5)


def _heteroscedastic(params: Array, state: State) -> tuple[Array, Array]:
    mean, free = np.split(params, 2, axis=-1)
    return mean, FLOOR + np.exp(free)


def _bernoulli(params: Array, x: Array, kind: Kind, state: State) -> Array:
    return np.asarray(stats.bernoulli(special.expit(params)).logpmf(x))


def _continuous_bernoulli(params: Array, x: Array, kind: Kind, state: State) -> Array:
    low, scale = _moments(kind, [])
    y, probability = (x - low) / scale, special.expit(params)
    constant = 2 * np.arctanh(1 - 2 * probability) / (1 - 2 * probability)
    return np.asarray(np.log(constant * probability**y * (1 - probability) ** (1 - y) / scale))


def _discretized_logistic(params: Array, x: Array, kind: Kind, state: State) -> Array:
    low, scale = _moments(kind, [])
    location, log_scale = np.split(params, 2, axis=-1)
    centre = low + scale * special.expit(location)
    spread = scale * np.exp(np.clip(log_scale - 2, -7, 0))
    start, end = np.where(x > low, x - 0.5, -np.inf), np.where(x < low + scale, x + 0.5, np.inf)
    # By the tail on the pixel's side of the centre, where the difference keeps its digits.
    near = stats.logistic.logsf(np.where(x > centre, start - centre, centre - end) / spread)
    far = stats.logistic.logsf(np.where(x > centre, end - centre, centre - start) / spread)
    return np.asarray(near + np.log1p(-np.exp(far - near)))


def _categorical(params: Array, x: Array, kind: Kind, state: State) -> Array:
    if isinstance(kind.data, ImageInput):
        low, scale = _moments(kind, [])
        sizes, codes = [round(float(scale)) + 1] * len(x), x - low
    else:
        sizes, codes = [len(c.categories) for c in kind.data.columns if isinstance(c, CategoricalColumn)], x
    logits = np.split(params, np.cumsum(sizes)[:-1], axis=-1)
    cells = [
        np.full(len(params), np.nan) if np.isnan(code) else special.log_softmax(logit, axis=-1)[:, int(code)]
        for logit, code in zip(logits, codes, strict=True)
    ]
    return np.stack(cells, -1)


def _mixed(numbers: Callable[..., Array], size: int) -> Callable[..., Array]:
    """Numbers, of `size` parameters each, come before the categories in the parameters."""

    def log_density(params: Array, x: Array, kind: Kind, state: State) -> Array:
        assert isinstance(kind.data, TabularInput)
        numeric = [i for i, column in enumerate(kind.data.columns) if column.type == "numeric"]
        categorical = [i for i, column in enumerate(kind.data.columns) if column.type == "categorical"]
        parts = np.split(params, [size * len(numeric)], axis=-1)
        state = {name.rpartition(".")[2]: array for name, array in state.items()}
        cells = np.empty((len(params), len(x)))
        for function, places, part in ((numbers, numeric, parts[0]), (_categorical, categorical, parts[1])):
            table = TabularInput(columns=tuple(kind.data.columns[i] for i in places))
            cells[:, places] = function(part, x[places], Kind(table, kind.rows[:, places]), state)
        return cells

    return log_density


LOG_DENSITIES: dict[str, Callable[..., Array]] = {
    "gaussian": _gaussian(_learned),
    "gaussian_shared": _gaussian(_learned),
    "gaussian_heteroscedastic": _gaussian(_heteroscedastic),
    "gaussian_fixed": _gaussian(_fixed),
    "bernoulli": _bernoulli,
    "continuous_bernoulli": _continuous_bernoulli,
    "discretized_logistic": _discretized_logistic,
    "categorical": _categorical,
    "mixed": _mixed(_gaussian(_learned), 1),
    "mixed_heteroscedastic": _mixed(_gaussian(_heteroscedastic), 2),
    "mixed_asinh": _mixed(_asinh, 1),
}
"""Log p(x_d|z), (grid, D), NaN where x is missing, for parameters (grid, num_params), a row x (D,), its kind of data
and the likelihood's own parameters."""


def log_likelihood(name: str, weight: Array, bias: Array, rows: Array, kind: Kind, state: dict[str, Any]) -> Array:
    """Log p(x|z) of the observed cells, (rows, grid), for a decoder W z + b with W and b (num_params,)."""
    params = GRID[:, None] * weight + bias
    return np.stack([np.nansum(LOG_DENSITIES[name](params, row, kind, state), axis=-1) for row in rows])
