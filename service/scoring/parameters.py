"""Plans: what the parameters of a request for bounds come to with one bundle, before any row is looked at."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from service.bundle import SCORES, Array, Bundle, TabularInput
from service.errors import InvalidError
from service.scoring.missing_cells import HeldOutScores

Seed = Annotated[int | None, Field(ge=0, lt=2**32, description="Names the random numbers; the bundle's own if absent.")]
NumDraws = Annotated[int | None, Field(ge=1, description="K, draws of z per row; the bundle's own if absent.")]

Score = Annotated[
    Literal["negative_elbo", "negative_log_evidence", "regret", "typicality", "multiscale_residual"] | None,
    Field(description="Which score to report; the bundle's default if absent."),
]

Refine = Annotated[
    int | None,
    Field(
        ge=0,
        description="T, steps up the ELBO's gradient from the encoder's answer, for each instance; 0 if absent, or for "
        "the score regret the bundle's own.",
    ),
]


OnError = Annotated[
    Literal["fail", "mark"],
    Field(
        description="What a row does that cannot be scored: fail, it fails the request; mark, problem says what "
        "is wrong with it, and the others are answered."
    ),
]

Unseen = Literal["error", "mark", "missing"]


class Query(BaseModel):
    """Base of the query parameters: an unknown one is an error, not a default in disguise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    timeout: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds after which to give up, answering 504; the service's own limit, if that is shorter.",
    )


class RowsQuery(Query):
    """Parameters of the endpoints that take instances."""

    extra: Literal["ignore", "error"] = Field(
        default="ignore", description="What fields of a record do that are no columns of the model."
    )
    on_error: OnError = "fail"
    unseen: Unseen | None = Field(
        default=None,
        description="What a category does that is none of its column's: error, it is a wrong value; missing, it is a "
        "missing one; mark, it is a missing one, and problem says so. mark with on_error=mark, else error, if absent.",
    )


class ElboQuery(RowsQuery):
    """Parameters of `POST /elbo`."""

    num_draws: NumDraws = None
    seed: Seed = None
    score: Score = None
    refine: Refine = None
    explain: bool = Field(
        default=False,
        description="Add where the bound comes from, by feature and latent; for tables also how strange each cell is.",
    )
    fdr: float | None = Field(
        default=None, gt=0, lt=1, description="Add discovery: whom to call anomalous at this false-discovery rate."
    )
    observe: bool = Field(
        default=True, description="Count the rows among those in which drift is looked for; false for experiments."
    )


@dataclass(frozen=True)
class BoundParameters:
    """How rows get their bounds and their score, where their own values make no difference.

    Attributes:
        draws: K.
        seed: Of the noise.
        refine: T, steps of refinement.
        column: What the score is made of.
        sign: Of the column in the score.
        by_graph: Whether the graph `scores` gives the column.
        held_out: The held-out rows by the score made in the same way; None where the bundle has none.
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
    held_out: HeldOutScores | None
    explain: bool
    by_cell: bool
    default: bool

    def score(self, made: Mapping[str, Array]) -> dict[str, Array]:
        """`score` from what it is made of, and `p_value` as of rows without missing cells.

        A score that is not finite is NaN. Its row is stranger than floating point can tell, with the smallest p-value.
        """
        score = self.sign * made[self.column]
        score = np.where(np.isfinite(score), score, np.nan)
        return {
            "score": score,
            "p_value": np.full(len(score), np.nan) if self.held_out is None else self.held_out.without_missing(score),
        }

    def judge(self, bounds: dict[str, Array]) -> dict[str, Array]:
        """The bounds, with `score` and `p_value`."""
        return bounds | self.score(bounds)

    def p_value(self, columns: Mapping[str, Array], x: Array) -> Array:
        """`p_value` of rows x, some of which may have missing cells, from the columns of `score`."""
        p, score = columns["p_value"], columns["score"]
        return p if self.held_out is None else self.held_out.with_missing(p, score, x)


def resolve_parameters(
    bundle: Bundle, num_draws: int | None, seed: int | None, score: str | None, refine: int | None, *, explain: bool
) -> BoundParameters:
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
    if score in {"typicality", "multiscale_residual"} and not by_graph:
        raise InvalidError(f"this bundle has no graph that gives {score}", "query.score")
    made = (num_draws or manifest.num_draws, chosen_seed(bundle, seed), refine)
    calibrated = (manifest.num_draws, manifest.seed, manifest.calibration.refine if score == "regret" else 0)
    # A graph answers without draws.
    valid = score in manifest.scores and (by_graph or made == calibrated)
    column, sign = SCORES[score]
    return BoundParameters(
        *made,
        column,
        sign,
        by_graph,
        HeldOutScores.read(score, bundle.calibration[score], bundle.missing_cells) if valid else None,
        explain,
        explain and isinstance(manifest.input, TabularInput),
        (*made, score) == (*calibrated, manifest.default_score),
    )


def chosen_seed(bundle: Bundle, seed: int | None) -> int:
    """The seed asked for, or else the bundle's own."""
    return bundle.manifest.seed if seed is None else seed
