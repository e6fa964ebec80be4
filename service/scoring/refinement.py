"""Refinement: each row's posterior moved up the gradient of its own ELBO, step by step, keeping the best point seen.

The steps are the bundle's `refine` graph, which has the gradient and Adam's arithmetic in it; this is the loop around
it. Rows at different steps may share an engine call: a row's state goes in and out with it.
"""

from collections.abc import Mapping

import numpy as np

from service.bundle import BOUNDS, Array

STATE = ("mean", "log_variance", "first_moment", "second_moment", "step")


def first_state(posterior: Mapping[str, Array]) -> dict[str, Array]:
    """The state that refinement begins with: the encoder's `mean` and `log_variance`, (batch, L), and Adam at rest."""
    mean, log_variance = posterior["mean"], posterior["log_variance"]
    rows, latent_size = mean.shape
    moment = np.zeros((rows, 2 * latent_size), np.float32)
    return dict(zip(STATE, (mean, log_variance, moment, moment, np.zeros(rows, np.float32)), strict=True))


class RefinementState:
    """Rows on their way up. Call the graph with `state` T + 1 times for T steps: each call tells of the point before.

    Args:
        posterior: The encoder's answer to the rows.
        bounds: The amortised bounds of the rows, each (batch,): what no refined bound falls below.
    """

    def __init__(self, posterior: Mapping[str, Array], bounds: Mapping[str, Array]) -> None:
        self.state = first_state(posterior)
        self._amortised = bounds["elbo"]
        self._best = {name: bounds[name] for name in BOUNDS}

    def take(self, answer: Mapping[str, Array]) -> None:
        """Take in an answer of the graph to `state`."""
        better = answer["elbo"] > self._best["elbo"]
        self._best = {name: np.where(better, answer[name], values) for name, values in self._best.items()}
        self.state = {name: answer[f"next_{name}"] for name in STATE}

    @property
    def bounds(self) -> dict[str, Array]:
        """The bounds at each row's best point, and `regret`, by how many nats its ELBO rose; each (batch,)."""
        return self._best | {"regret": self._best["elbo"] - self._amortised}
