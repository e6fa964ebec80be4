"""Plans: what the parameters of a request for bounds come to with one bundle, before any row is looked at.

This module must not know about HTTP, queues or how anything is computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from service.bundle import Array, Bundle
from service.calibration import SCORES, p_values
from service.errors import InvalidError
from service.manifest import TabularInput


@dataclass(frozen=True)
class Plan:
    """How rows get their bounds and their score, where their own values make no difference.

    Attributes:
        draws: K.
        seed: Of the noise.
        refine: T, steps of refinement.
        column: What the score is made of.
        sign: Of the column in the score.
        by_graph: Whether the graph `scores` gives the column.
        held_out: Scores made in the same way, for the p-values; None where the bundle has none.
        explain: Whether to say where the bounds come from.
        by_cell: And, of a table, how strange each cell is: bounds of as many rows more as the row has cells.
        default: Whether all that makes the score is as the bundle would have it.
    """

    draws: int
    seed: int
    refine: int
    column: str
    sign: int
    by_graph: bool
    held_out: Array | None
    explain: bool
    by_cell: bool
    default: bool

    def score(self, made: Mapping[str, Array]) -> dict[str, Array]:
        """`score` and `p_value` from what the score is made of."""
        score = self.sign * made[self.column]
        return {
            "score": score,
            "p_value": np.full(len(score), np.nan) if self.held_out is None else p_values(score, self.held_out),
        }

    def judge(self, bounds: dict[str, Array]) -> dict[str, Array]:
        """The bounds, with their score and p-value."""
        return bounds | self.score(bounds)


def make_plan(
    bundle: Bundle, num_draws: int | None, seed: int | None, score: str | None, refine: int | None, *, explain: bool
) -> Plan:
    """What these parameters of `Model.elbo` come to.

    Raises:
        InvalidError: The bundle has no graph for what they ask.
    """
    manifest = bundle.manifest
    score = score or manifest.default_score
    if refine is None:
        refine = manifest.calibration.refine if score == "regret" else 0
    by_graph = score in manifest.graph_scores
    if refine and "refine" not in manifest.graphs:
        raise InvalidError("this bundle has no graph that refines", "query.refine")
    if explain and "explain" not in manifest.graphs:
        raise InvalidError("this bundle has no graph that explains", "query.explain")
    if score == "regret" and not refine:
        raise InvalidError("regret is what refinement gains: ask for steps of it with refine", "query.score")
    if score in {"typicality", "coarse_error"} and not by_graph:
        raise InvalidError(f"this bundle has no graph that gives {score}", "query.score")
    made = (num_draws or manifest.num_draws, chosen_seed(bundle, seed), refine)
    calibrated = (manifest.num_draws, manifest.seed, manifest.calibration.refine if score == "regret" else 0)
    # What a graph gives is made without draws.
    valid = score in manifest.scores and (by_graph or made == calibrated)
    column, sign = SCORES[score]
    return Plan(
        *made,
        column,
        sign,
        by_graph,
        bundle.calibration[score] if valid else None,
        explain,
        explain and isinstance(manifest.input, TabularInput),
        (*made, score) == (*calibrated, manifest.default_score),
    )


def chosen_seed(bundle: Bundle, seed: int | None) -> int:
    """The seed asked for, or else the bundle's own."""
    return bundle.manifest.seed if seed is None else seed
