"""Request and response bodies and query parameters: shapes, units and limits, as the OpenAPI page shows them.

Bodies are read and written by the codecs; these classes describe them to people and to client generators.
"""

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from service.bundle import Category, Manifest
from service.engine import Precision
from service.scoring import LARGEST, Query, RowsQuery, Seed

Value = TypeVar("Value")
Some = Annotated[list[Value], Field(min_length=1)]
Rows = list[float | None]
Nested = list[float] | list[list[float]] | list[list[list[float]]]
NestedOrNull = Rows | list[Rows] | list[list[Rows]]
TableRecord = dict[str, Category | None]


class EncodeQuery(RowsQuery):
    """Parameters of `POST /encode`."""

    num_draws: int = Field(default=0, ge=0, le=LARGEST, description="S, posterior draws per row to add to the answer.")
    seed: Seed = None


class DecodeQuery(Query):
    """Parameters of `POST /decode`."""

    draw: bool = Field(default=False, description="Draw from p(x|z) instead of taking its expectation.")
    seed: Seed = None


class SampleQuery(Query):
    """Parameters of `GET /sample`."""

    n: int = Field(default=16, ge=1, le=LARGEST, description="How many instances.")
    seed: Seed = None
    temperature: float = Field(default=1.0, ge=0, le=100, description="Factor on the prior's standard deviation.")


class Instances(BaseModel):
    """Raw data in the units of the training file."""

    model_config = ConfigDict(extra="forbid")

    instances: Some[TableRecord] | Some[list[float | Category | None]] | Some[Nested] = Field(
        description="Images: nested arrays (height, width[, channels]) of pixel values. Tables: records by column "
        "name, or arrays in column order; null where a value is missing."
    )


class Latents(BaseModel):
    """Points of the latent space."""

    model_config = ConfigDict(extra="forbid")

    latents: Some[Some[float]] = Field(description="Shape (batch, L).")


class ColumnsAnswer(BaseModel):
    """Base of the answers in columns, of which `fields` may leave out any."""

    model_config = ConfigDict(json_schema_extra=lambda schema: schema.pop("required", None))


class RowsAnswer(ColumnsAnswer):
    """Base of the answers to instances, which may be marked."""

    problem: list[str | None] | None = Field(
        default=None,
        description="With on_error=mark or unseen=mark: what is wrong with an instance, and where; null if nothing is.",
    )


class EncodeAnswer(RowsAnswer):
    """The approximate posterior q(z|x) = N(mean, diag exp(log_variance)) of each instance; null in marked rows."""

    mean: list[list[float | None]] = Field(description="Shape (batch, L).")
    log_variance: list[list[float | None]] = Field(description="Shape (batch, L).")
    draws: list[list[list[float | None]]] | None = Field(
        default=None, description="Shape (batch, S, L), with num_draws=S."
    )


class InstancesAnswer(RowsAnswer):
    """Instances as the model reads them."""

    instances: list[TableRecord] | list[Nested] = Field(description="In data units; null where a value is missing.")


class DecodeAnswer(ColumnsAnswer):
    """Instances in data units."""

    instances: list[TableRecord] | list[Nested] = Field(
        description="E[x|z], or draws from p(x|z). Tables: records; a categorical column's expectation is its most "
        "probable category. Draws keep to the numbers of the training rows."
    )


class SampleAnswer(DecodeAnswer):
    """Latents from the prior and the instances decoded from them."""

    instances: list[TableRecord] | list[Nested] = Field(
        description="E[x|z]. Tables: records, whose numbers are the nearest that the training rows allow: whole where "
        "all were, and never outside."
    )
    latents: list[list[float]] = Field(description="Shape (n, L).")


class ElboAnswer(RowsAnswer):
    """Bounds on log p(x) in nats per instance; p is a density in the units sent, with all normalising constants.

    All are null in a row that is marked because it cannot be scored, but for the p-value of one that is too far from
    the training data for a finite bound: it is the smallest there is.
    """

    elbo: Rows = Field(description="log_likelihood - kl: the evidence lower bound, mean over the K draws.")
    log_likelihood: Rows = Field(description="Mean of log p(x|z) over the draws.")
    kl: Rows = Field(description="KL(q(z|x) || p(z)).")
    standard_error: Rows = Field(
        description="Of log_likelihood, as if draws were independent: Sobol draws do better. null for K = 1."
    )
    log_evidence: Rows = Field(description="The importance-weighted bound: log of the mean weight p(x,z)/q(z|x).")
    ess: Rows = Field(description="Effective share of the draws, (sum w)^2 / (K sum w^2), 1/K to 1.")
    score: Rows = Field(description="The chosen score; larger is more anomalous.")
    p_value: Rows = Field(
        description="(1 + number of held-out scores at least as large) / (n + 1). null under draws, a seed, a score or "
        "a refinement other than the calibrated ones, where it would not be valid; and for a table's row with missing "
        "cells that cannot be compared with held-out rows that lack the same."
    )
    regret: Rows | None = Field(default=None, description="With refine: by how much the ELBO rose, at least 0.")
    discovery: list[bool] | None = Field(
        default=None,
        description="With fdr: called anomalous, by Benjamini and Hochberg's rule over the request; "
        "false in a row without a p-value.",
    )
    feature_log_likelihood: list[NestedOrNull] | list[dict[str, float | None]] | None = Field(
        default=None, description="With explain: by pixel or column, nats; adds up to the unrefined log_likelihood."
    )
    latent_kl: list[list[float | None]] | None = Field(
        default=None, description="With explain: shape (batch, L); adds up to the unrefined kl."
    )
    feature_surprise: list[dict[str, float | None]] | None = Field(
        default=None,
        description="With explain, of tables: by how many nats the unrefined elbo rises when this cell alone is as "
        "expected; 0 where it is missing.",
    )
    feature_expected: list[TableRecord] | None = Field(
        default=None, description="With explain, of tables: what the model expects in each cell, given the others."
    )


class ModelAnswer(BaseModel):
    """What is being served."""

    manifest: Manifest
    held_out: dict[str, list[float]] = Field(
        description="By calibrated score, its quantiles over the held-out rows at 0, 1, ..., 100 %."
    )
    bundle: str = Field(description="SHA-256 of manifest.json, which holds the digest of every other file.")
    device: str = Field(description="The device in use.")
    precision: Precision = Field(description="The lowest that the device computes in where tensors are float32.")
    refused_precisions: dict[Precision, float | None] = Field(
        description="Lower ones that were asked for, and their golden_error at the start, which is above 1."
    )
    golden_error: float | None = Field(
        description="Largest error of the golden ELBOs now, as a share of the tolerance; null if no number."
    )
    replaced_engines: int = Field(description="Engines that hung, failed or answered wrongly since the start.")


class ModelsAnswer(BaseModel):
    """The served models, by name and version."""

    models: dict[str, list[int]] = Field(description="The served versions of every model, oldest first.")
    default: str | None = Field(description="The model of the paths that name none, if there is one.")
    refused: dict[str, dict[str, str]] = Field(
        description="Versions in the repository that cannot be served as they are, and folders whose names are no "
        "versions, and why. One that was served before it was replaced still is, as it was. Version 0 stands for a "
        "model's folder that cannot be read."
    )


class Health(BaseModel):
    """A health check's answer."""

    status: Literal["live", "ready"]


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: Literal["about:blank"] = "about:blank"
    title: str = Field(description="The status in words.")
    status: int
    detail: str = Field(description="What is wrong, for people.")
    location: str | None = Field(default=None, description="The first offending value, as instances[3][17].")
