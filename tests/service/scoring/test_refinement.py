"""Refinement keeps the best point that it has seen."""

import numpy as np

from service.bundle import BOUNDS
from service.scoring.refinement import STATE, RefinementState


def test_a_worse_step_does_not_take_the_place_of_a_better_one() -> None:
    posterior = {"mean": np.zeros((2, 1), np.float32), "log_variance": np.zeros((2, 1), np.float32)}

    def bounds(elbo: list[float], others: float) -> dict[str, np.ndarray]:
        return dict.fromkeys(BOUNDS, np.full(2, others)) | {"elbo": np.array(elbo)}

    state = RefinementState(posterior, bounds([-3.0, -3.0], 0))
    for number, elbo in enumerate(([-2.0, -4.0], [-5.0, -2.5], [np.nan, -9.0]), start=1):
        state.take(bounds(elbo, number) | {f"next_{name}": np.full(2, number) for name in STATE})
    assert state.bounds["elbo"].tolist() == [-2.0, -2.5]
    assert state.bounds["regret"].tolist() == [1.0, 0.5]
    # The other bounds are those of the same step.
    assert state.bounds["log_evidence"].tolist() == [1, 2]
    assert state.state["mean"].tolist() == [3, 3]
