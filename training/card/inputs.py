"""The inputs of the card, and the engine's answers for it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from service.bundle import Array, Manifest, TabularInput
from service.engine import Engine, fitting
from service.scoring import noise, p_values
from training.evaluation.bounds import compute, surprise
from training.fit import Epoch

MOST_ROWS = 1000
"""Test rows that are encoded, decoded and explained; scores and p-values are those of all."""

PRIOR_DRAWS = 2000


@dataclass(frozen=True, eq=False)
class CardInputs:
    """Everything that the card tells of, and the engine that computes the rest."""

    manifest: Manifest
    """The bundle's manifest, without its card."""
    engine: Engine
    calibration: Mapping[str, Array]
    """As `Bundle.calibration`: `noise` (K, L), and for each calibrated score the sorted held-out ones, nats (n,)."""
    history: Sequence[Epoch]
    """The epochs of the training, oldest first; empty if the model was trained elsewhere."""
    best: Epoch | None
    """The epoch whose weights the bundle has."""
    test: Array
    """Raw held-out rows, (N, *shape)."""
    row_numbers: Array
    """The numbers of the test rows in the data, counted from 0, (N,)."""
    scores: Mapping[str, Array]
    """Calibrated scores of the test rows, the default one among them, (N,); no number where a row is too far off."""

    @cached_property
    def p_values(self) -> dict[str, Array]:
        """Conformal p-values of the test rows for every calibrated score, (N,)."""
        return {name: p_values(scores, self.calibration[name]) for name, scores in self.scores.items()}

    @cached_property
    def default_score(self) -> Array:
        """The default score of the test rows, nats (N,); infinite where it is no number."""
        scores = self.scores[self.manifest.default_score]
        return np.where(np.isfinite(scores), scores, np.inf)

    @cached_property
    def default_p_values(self) -> Array:
        """p-values of the test rows by the default score, (N,)."""
        return self.p_values[self.manifest.default_score]

    @property
    def default_calibration(self) -> Array:
        """The sorted held-out default scores, nats (n,)."""
        return self.calibration[self.manifest.default_score]

    @property
    def usual(self) -> Array:
        """Numbers of the test rows that stand for all in figures over many rows, at most `MOST_ROWS`."""
        return np.arange(min(len(self.test), MOST_ROWS))

    def ranked(self, num: int) -> Array:
        """Numbers of `num` test rows at even steps from the lowest default score to the highest."""
        order = np.argsort(self.default_score, kind="stable")
        return order[np.unique(np.linspace(0, len(order) - 1, num).round().astype(int))]

    def strangest(self, num: int) -> Array:
        """Numbers of the `num` test rows of the highest default scores, the strangest first."""
        return np.argsort(-self.default_score, kind="stable")[:num]

    @cached_property
    def posterior(self) -> dict[str, Array]:
        """`mean` and `log_variance` of the usual rows, (n, L)."""
        return compute(self.engine, "encoder", {"x": self.test[self.usual]})

    @cached_property
    def explained(self) -> dict[str, Array]:
        """`feature_log_likelihood` (n, *shape) and `latent_kl` (n, L) of the usual rows, in nats."""
        return self.explain(self.usual)

    @cached_property
    def latent_kl(self) -> Array:
        """Mean KL of each latent over the usual rows, nats (L,)."""
        return np.asarray(self.explained["latent_kl"].mean(0))

    @cached_property
    def latents(self) -> Array:
        """The latents' numbers, the most active first: by `latent_kl`."""
        return np.argsort(-self.latent_kl, kind="stable")

    @cached_property
    def typical(self) -> Array:
        """Posterior mean of the test row of the median default score, (L,)."""
        order = np.argsort(self.default_score, kind="stable")
        return self.encode(order[len(order) // 2][None])[0]

    def traversal(self, latent: int, steps: int) -> Array:
        """Values of a latent over three standard deviations of the aggregate posterior either side of its mean."""
        mean, variance = self.posterior["mean"][:, latent], np.exp(self.posterior["log_variance"][:, latent])
        deviation = np.sqrt(mean.var() + variance.mean())
        return np.asarray(mean.mean() + deviation * np.linspace(-3, 3, steps))

    def describe(self, row: int, kl: float) -> str:
        """A test row of this KL in one line: where it stands in the data, its default score and p-value."""
        score = self.manifest.default_score
        median = np.median(self.explained["latent_kl"].sum(1))
        return (
            f"Row {self.row_numbers[row]} of the data: {score} {self.scores[score][row]:.4g}, "
            f"p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{self.p_values[score][row]:.2g}; "
            f"KL {kl:.3g} nats (median {median:.3g})"
        )

    def explain(self, rows: Array) -> dict[str, Array]:
        """The shares of features and latents in the bounds of these test rows, in nats, under the default noise."""
        return compute(self.engine, "explain", {"x": self.test[rows]}, self.calibration["noise"])

    def surprise(self, rows: Array) -> dict[str, Array]:
        """How strange each cell of these test rows of a table is, and what was expected there, (n, D) each."""
        data, elbo = self.manifest.input, -self.scores["negative_elbo"][rows]
        assert isinstance(data, TabularInput)  # noqa: S101 - pictures have no cells
        return surprise(self.engine, self.test[rows], self.calibration["noise"], elbo, data)

    def encode(self, rows: Array) -> Array:
        """Posterior means of these test rows, (n, L)."""
        return self.engine.run("encoder", {"x": self.test[rows]})["mean"]

    def decode(self, z: Array) -> Array:
        """E[x|z], (n, *shape), in data units, for z of shape (n, L)."""
        most = fitting(MOST_ROWS, math.prod(self.manifest.input.shape))
        parts = np.split(z.astype(np.float32), range(most, len(z), most))
        return np.concatenate([self.engine.run("decoder", {"z": part})["x_mean"] for part in parts])

    @cached_property
    def prior(self) -> Array:
        """Draws from p(z), (PRIOR_DRAWS, L): by the bundle's own graph where it has one, else from N(0, I)."""
        seed, shape = self.manifest.seed, (PRIOR_DRAWS, self.manifest.latent_size)
        if "prior" not in self.manifest.graphs:
            return noise.standard_normal(seed, shape)
        random = {"normal": noise.standard_normal(seed, shape), "uniform": noise.uniform(seed, (PRIOR_DRAWS, 1), 1)}
        return self.engine.run("prior", random)["z"]

    @cached_property
    def drawn(self) -> Array:
        """Draws from the model, x ~ p(x|z) for z ~ p(z), (PRIOR_DRAWS, *shape)."""
        shape = (PRIOR_DRAWS, len(self.manifest.input.features))
        seed = self.manifest.seed
        random = {"normal": noise.standard_normal(seed, shape, 2), "uniform": noise.uniform(seed, shape, 3)}
        return compute(self.engine, "draw", {"z": self.prior, **random})["x"]
