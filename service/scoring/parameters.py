"""Parameters of a request for bounds, resolved against a bundle before any row is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from service.bundle import PASS_SCORES, SCORES, Array, Bundle, ScoreName, TabularInput
from service.errors import InvalidError
from service.scoring.missing_cells import HeldOutScores

LARGEST = 2**63 - 1
"""The largest whole number that a client may send: longer ones can neither be multiplied nor written out."""

Seed = Annotated[int | None, Field(ge=0, lt=2**32, description="Seed of the random numbers. Default: the bundle's.")]
NumDraws = Annotated[int | None, Field(ge=1, le=LARGEST, description="K, draws of z per row. Default: the bundle's.")]

Score = Annotated[ScoreName | None, Field(description="The score to report. Default: the bundle's.")]

Refine = Annotated[
    int | None,
    Field(
        ge=0,
        le=LARGEST,
        description="T, steps of gradient ascent on the ELBO from the encoder's posterior, for each row. Default: 0, "
        "or the bundle's for the score regret.",
    ),
]


OnError = Annotated[
    Literal["fail", "mark"],
    Field(
        description="A row that cannot be scored fails the request (fail), or gets a text in the column problem while "
        "the other rows are answered (mark)."
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
        description="Seconds after which the request gets 504, if that is sooner than the service's limit.",
    )
    fields: str | None = Field(
        default=None,
        description="The columns of the answer to send, with commas between, as score,p_value. Default: all.",
    )


class RowsQuery(Query):
    """Parameters of the endpoints that take instances."""

    extra: Literal["ignore", "error"] = Field(
        default="ignore", description="Fields of a record that are no columns of the model are ignored, or an error."
    )
    on_error: OnError = "fail"
    unseen: Unseen | None = Field(
        default=None,
        description="A category that its column did not have in training is a wrong value (error), a missing cell "
        "(missing), or a missing cell that the column problem names (mark). Default: mark with on_error=mark, else "
        "error.",
    )


class ElboQuery(RowsQuery):
    """Parameters of `POST /elbo`."""

    num_draws: NumDraws = None
    seed: Seed = None
    score: Score = None
    refine: Refine = None
    explain: bool = Field(
        default=False,
        description="Add the shares of features and latents in the bound; for tables also how strange each cell is.",
    )
    fdr: float | None = Field(
        default=None, gt=0, lt=1, description="Add discovery: the rows called anomalous at this false-discovery rate."
    )
    observe: bool = Field(default=True, description="Include the rows in the drift test; false for experiments.")


@dataclass(frozen=True)
class BoundParameters:
    """How rows get their bounds and their score, independent of their values.

    Attributes:
        draws: K.
        seed: Seed of the base samples.
        refine: T, steps of refinement.
        column: The column that the score comes from.
        sign: The sign of the column in the score.
        by_graph: Whether the graph `scores` computes the column.
        held_out: The held-out scores that were computed in the same way; None if the bundle has none.
        explain: Whether to add the shares of features and latents.
        by_cell: Whether to add how strange each cell is, which takes the bounds of one more row for each cell.
        default: Whether the score and its parameters are the bundle's defaults.
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
        return self._with_p_value(np.where(np.isfinite(score), score, np.nan))

    def judge(self, bounds: dict[str, Array]) -> dict[str, Array]:
        """The bounds, with `score` and `p_value`; all but the p-value are NaN in rows without finite bounds."""
        columns = blank(bounds, finite_bounds(bounds) & np.isfinite(bounds[self.column]))
        return columns | self._with_p_value(self.sign * columns[self.column])

    def _with_p_value(self, score: Array) -> dict[str, Array]:
        held_out = self.held_out
        p = np.full(len(score), np.nan) if held_out is None else held_out.without_missing(score)
        return {"score": score, "p_value": p}

    def p_value(self, columns: Mapping[str, Array], x: Array) -> Array:
        """`p_value` of rows x, some of which may have missing cells, from the columns of `score`."""
        p, score = columns["p_value"], columns["score"]
        return p if self.held_out is None else self.held_out.with_missing(p, score, x)


def finite_bounds(columns: Mapping[str, Array]) -> Array:
    """Which rows have finite bounds, bool (batch,)."""
    finite: Array = np.isfinite(columns["elbo"]) & np.isfinite(columns["log_evidence"])
    return finite


def blank(columns: dict[str, Array], finite: Array) -> dict[str, Array]:
    """The columns, NaN in rows that are not `finite`, but for the p-value."""
    if np.count_nonzero(finite) == finite.size:  # `all` takes ten times as long for one row.
        return columns
    return {
        name: values if name == "p_value" else np.where(finite.reshape(-1, *[1] * (values.ndim - 1)), values, np.nan)
        for name, values in columns.items()
    }


def resolve_parameters(
    bundle: Bundle, num_draws: int | None, seed: int | None, score: str | None, refine: int | None, *, explain: bool
) -> BoundParameters:
    """Resolve the parameters of `Model.elbo`.

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
        raise InvalidError("regret is the gain of refinement: give refine a number of steps", "query.score")
    if score in PASS_SCORES and not by_graph:
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
