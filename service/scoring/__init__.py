"""Statistics in NumPy: noise, scores, p-values, drift, refinement and attribution."""

from service.scoring.attribution import ROUNDS, ConditionalAttribution
from service.scoring.conformal import discoveries, p_values, percentiles, scores, why_none
from service.scoring.drift import FALSE_ALARMS, Martingale
from service.scoring.missing_cells import HeldOutScores
from service.scoring.noise import MAX_DRAWS, MAX_LATENT_SIZE
from service.scoring.parameters import (
    LARGEST,
    BoundParameters,
    ElboQuery,
    NumDraws,
    OnError,
    Query,
    Refine,
    RowsQuery,
    Score,
    Seed,
    Unseen,
    blank,
    chosen_seed,
    finite_bounds,
    resolve_parameters,
)
from service.scoring.recalibration import Recalibrated, recalibrate
from service.scoring.refinement import RefinementState, first_state
from service.scoring.thresholds import lowest_threshold

__all__ = [
    "FALSE_ALARMS",
    "LARGEST",
    "MAX_DRAWS",
    "MAX_LATENT_SIZE",
    "ROUNDS",
    "BoundParameters",
    "ConditionalAttribution",
    "ElboQuery",
    "HeldOutScores",
    "Martingale",
    "NumDraws",
    "OnError",
    "Query",
    "Recalibrated",
    "Refine",
    "RefinementState",
    "RowsQuery",
    "Score",
    "Seed",
    "Unseen",
    "blank",
    "chosen_seed",
    "discoveries",
    "finite_bounds",
    "first_state",
    "lowest_threshold",
    "p_values",
    "percentiles",
    "recalibrate",
    "resolve_parameters",
    "scores",
    "why_none",
]
