"""Statistics in NumPy: noise, scores, p-values, drift, refinement and attribution."""

from service.scoring.attribution import ROUNDS, Counterfactuals
from service.scoring.conformal import discoveries, p_values, percentiles, scores
from service.scoring.drift import FALSE_ALARMS, Martingale
from service.scoring.noise import MAX_DRAWS, MAX_LATENT_SIZE
from service.scoring.parameters import (
    ElboQuery,
    NumDraws,
    OnError,
    Plan,
    Query,
    Refine,
    RowsQuery,
    Score,
    Seed,
    Unseen,
    chosen_seed,
    make_plan,
)
from service.scoring.refinement import Ascent, first_state

__all__ = [
    "FALSE_ALARMS",
    "MAX_DRAWS",
    "MAX_LATENT_SIZE",
    "ROUNDS",
    "Ascent",
    "Counterfactuals",
    "ElboQuery",
    "Martingale",
    "NumDraws",
    "OnError",
    "Plan",
    "Query",
    "Refine",
    "RowsQuery",
    "Score",
    "Seed",
    "Unseen",
    "chosen_seed",
    "discoveries",
    "first_state",
    "make_plan",
    "p_values",
    "percentiles",
    "scores",
]
