"""The manifest: what a bundle says of itself, and the signature that the contract gives to each of its graphs."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, model_validator

from service.bundle.folder import check_files

FORMAT_VERSION = "1.0"
CALIBRATION = "calibration.npz"
MISSING_CELLS = "missing_cells.npz"
GOLDEN = "golden.npz"
REQUIRED_GRAPHS = ("encoder", "decoder", "elbo")
OPTIONAL_GRAPHS = ("explain", "draw", "prior", "refine", "scores")
BOUNDS = ("elbo", "log_likelihood", "kl", "standard_error", "log_evidence", "ess")

MISSING = (
    *("", "na", "n/a", "n.a.", "<na>", "nan", "null", "(null)", "none", "nil", "missing", "-", "--", "?"),
    *("#n/a", "#na", "#null!", "#div/0!", "#value!", "#ref!", "#name?", "#num!"),
)
"""The usual texts for a missing cell, in any case."""

ScoreName = Literal["negative_elbo", "negative_log_evidence", "regret", "typicality", "multiscale_residual"]

SCORES: Mapping[str, tuple[str, int]] = {
    "negative_elbo": ("elbo", -1),
    "negative_log_evidence": ("log_evidence", -1),
    "regret": ("regret", 1),
    "typicality": ("typicality", 1),
    "multiscale_residual": ("multiscale_residual", 1),
}
"""By `ScoreName`, the column that the score comes from, and the sign of the column in it."""

PASS_SCORES = ("typicality", "multiscale_residual")
"""Scores of the graph `scores`; the last one is of images."""

MAX_VALUES = 2**22
"""Values of one instance, such as a picture of 2048 × 2048 pixels: each has a name."""

ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Category = bool | int | float | str


class Record(BaseModel):
    """Base of the manifest's parts: immutable, and closed to unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tensor(Record):
    """One named input or output of a graph."""

    name: str
    dtype: Literal["float32", "float64", "uint8"]
    shape: tuple[int | str, ...] = Field(description="Sizes; a name stands for a size chosen at run time.")
    unit: str


class Graph(Record):
    """A graph's inputs and outputs, in order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class File(Record):
    """What a file of the bundle must be."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0, description="Bytes.")


class PictureReading(Record):
    """How the recipe converts pictures; the service converts those of clients in the same way."""

    resample: Literal["lanczos"] | None = Field(
        default=None, description="How pictures of another size are resized; null: they are refused."
    )
    to_gray: bool = Field(default=False, description="Colours become grey, by Rec. 601; otherwise they are refused.")
    background: Literal["white", "black"] | None = Field(
        default=None, description="What lies behind transparent pixels; null: they are refused."
    )


class ImageInput(Record):
    """Images of one size, as nested arrays (height, width) or (height, width, channels)."""

    kind: Literal["image"] = "image"
    shape: tuple[int, int] | tuple[int, int, int]
    dtype: Literal["uint8", "float32"] = Field(description="uint8: whole levels; float32: any value between.")
    low: float = Field(description="The smallest value a pixel may take (black), in data units.")
    high: float = Field(description="The largest value a pixel may take (white), in data units.")
    reading: PictureReading = Field(default=PictureReading(), description="How image files become instances.")

    @model_validator(mode="after")
    def _domain(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.dtype == "uint8" and not (self.low >= 0 and self.high <= 255):
            raise ValueError(f"uint8 pixels lie in [0, 255], not [{self.low}, {self.high}]")
        if len(self.shape) == 3 and self.shape[2] not in (1, 3):
            raise ValueError(f"images have 1 or 3 channels, not {self.shape[2]}")
        if min(self.shape) < 1 or math.prod(self.shape) > MAX_VALUES:
            raise ValueError(f"shape: {self.shape} has not 1 to {MAX_VALUES:,} values")
        return self

    @property
    def features(self) -> tuple[str, ...]:
        """A name for every value of an instance, in C order: `[row][column]`."""
        return tuple("".join(f"[{i}]" for i in index) for index in np.ndindex(self.shape))


class TimeFormat(Record):
    """How the dates or times of a column are written, beside ISO 8601."""

    order: Literal["ymd", "dmy", "mdy", "clock", "elapsed"] = Field(
        description="Of year, month and day; clock: a time of day alone; elapsed: a duration, as `1 days 02:30:00`."
    )
    zone: bool = Field(default=False, description="Texts name a time zone: seconds are then in UTC, else as written.")


class Derived(Record):
    """The origin of a computed column: a column of dates."""

    source: str = Field(description="The column of dates.")
    part: Literal["hour", "weekday"]


class NumericColumn(Record):
    """A column of numbers or, where it has a `time`, of moments as seconds since 1970.

    The fields from `decimal` on say how texts write the numbers; numbers themselves are taken as they are.
    """

    type: Literal["numeric"] = "numeric"
    name: str
    decimal: Literal[".", ","] = "."
    thousands: Literal["", ",", ".", " ", "'"] = ""
    affixes: tuple[str, ...] = Field(default=(), description="Signs before or after numbers, such as € or %.")
    time: TimeFormat | None = None
    period: float | None = Field(default=None, gt=0, description="Numbers that differ by it are alike: 24 hours.")
    derived: Derived | None = None


class CategoricalColumn(Record):
    """A column of one of a fixed set of values; a binary column is one with two categories."""

    type: Literal["categorical"] = "categorical"
    name: str
    categories: tuple[Category, ...] = Field(min_length=1, description="Category i enters the graphs as the number i.")
    other: str | None = Field(default=None, description="The category that stands for all values that are none.")
    derived: Derived | None = None

    @model_validator(mode="after")
    def _other_is_a_category(self) -> Self:
        if self.other is not None and self.other not in self.categories:
            raise ValueError(f"other ({self.other!r}) is none of the categories")
        return self


Column = Annotated[NumericColumn | CategoricalColumn, Field(discriminator="type")]


class TextFormat(Record):
    """How the text files of a table are written."""

    delimiter: str = Field(default=",", min_length=1, max_length=1)
    encoding: str = "utf-8"


class TabularInput(Record):
    """Rows of a table. In the graphs a row is float64: numbers in data units, category codes, NaN where missing."""

    kind: Literal["tabular"] = "tabular"
    columns: tuple[Column, ...] = Field(min_length=1)
    dropped: tuple[str, ...] = Field(default=(), description="Columns of the training file that the model is without.")
    missing: tuple[str, ...] = Field(default=MISSING, description="Texts, in any case, that stand for a missing cell.")
    text: TextFormat | None = Field(default=None, description="Of the training file, where that was text.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = {column.name: column for column in self.columns}
        if len(names) < len(self.columns):
            raise ValueError("two columns have the same name")
        for column in self.columns:
            source = names.get(column.derived.source) if column.derived else None
            if column.derived and not (isinstance(source, NumericColumn) and source.time):
                raise ValueError(f"{column.name}: {column.derived.source!r} is no column of dates")
        return self

    @property
    def shape(self) -> tuple[int]:
        return (len(self.columns),)

    @property
    def dtype(self) -> Literal["float64"]:
        return "float64"

    @property
    def features(self) -> tuple[str, ...]:
        """The columns' names, in order."""
        return tuple(column.name for column in self.columns)

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the columns that files and clients give, in order; derived columns are not among them."""
        return tuple(column.name for column in self.columns if column.derived is None)


Input = Annotated[ImageInput | TabularInput, Field(discriminator="kind")]


class Split(Record):
    """One of the disjoint parts the data was divided into."""

    rows: int
    sha256: str = Field(description="Digest of the row numbers (int64, ascending) that make up the part.")


class Provenance(Record):
    """Where a bundle comes from."""

    recipe: dict[str, JsonValue] = {}
    data_sha256: str | None = Field(default=None, description="Digest of all rows as the trainer read them.")
    splits: dict[str, Split] = {}
    commit: str | None = Field(default=None, description="The trainer's source revision.")
    packages: dict[str, str] = {}


class Calibration(Record):
    """The held-out rows that p-values compare with."""

    rows: int = Field(ge=1, description="n.")
    resolution: float = Field(gt=0, lt=1, description="The smallest p-value, 1 / (n + 1).")
    refine: int = Field(default=0, ge=0, description="Steps of refinement of the calibrated regret.")

    @classmethod
    def of(cls, rows: int, refine: int = 0) -> Self:
        """By `rows` held-out rows."""
        return cls(rows=rows, resolution=1 / (rows + 1), refine=refine)


class Manifest(Record):
    """Everything the service knows about a bundle."""

    format_version: str = Field(pattern=r"^\d+\.\d+$")
    name: ModelName
    version: int = Field(ge=1, le=999_999_999)
    created: AwareDatetime
    input: Input
    latent_size: int = Field(ge=1, le=2**16, description="L, the number of latent dimensions.")
    likelihood: str
    prior: str
    num_draws: int = Field(ge=1, le=2**16, description="K, the draws per row of the calibrated scores.")
    seed: int = Field(ge=0, lt=2**32, description="The seed of the calibrated scores' noise.")
    scores: tuple[str, ...] = Field(description="The calibrated scores; larger is more anomalous.")
    default_score: str
    calibration: Calibration
    tolerance: float = Field(gt=0, description="Nats by which a device may miss the golden ELBOs, beside 1e-5 of each.")
    graphs: dict[str, Graph]
    files: dict[str, File]
    metrics: dict[str, float] = Field(default={}, description="Held-out figures, in nats per row where not said.")
    provenance: Provenance = Provenance()

    @property
    def graph_scores(self) -> set[str]:
        """The scores that the graph `scores` gives, if there is one."""
        return {tensor.name for tensor in self.graphs["scores"].outputs} if "scores" in self.graphs else set()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if missing := [graph for graph in REQUIRED_GRAPHS if graph not in self.graphs]:
            raise ValueError(f"graphs: {', '.join(missing)} missing")
        for name, graph in self.graphs.items():
            if name not in REQUIRED_GRAPHS + OPTIONAL_GRAPHS:
                raise ValueError(f"graphs: unknown graph {name!r}")
            if graph != (contract := graph_contract(name, self.input, self.latent_size)):
                raise ValueError(f"graphs.{name}: must be {contract.model_dump()}")
        check_files({name: file.size for name, file in self.files.items()})
        wanted = {f"{graph}.onnx" for graph in self.graphs} | {CALIBRATION, GOLDEN}
        if missing := sorted(wanted - self.files.keys()):
            raise ValueError(f"files: {', '.join(missing)} missing")
        return self

    @model_validator(mode="after")
    def _consistent_scores(self) -> Self:
        if unknown := [score for score in self.scores if score not in SCORES]:
            raise ValueError(f"scores: {', '.join(unknown)} unknown; known are {', '.join(SCORES)}")
        if self.default_score not in self.scores:
            raise ValueError(f"default_score: {self.default_score!r} is not among the calibrated scores")
        if self.default_score == "regret":
            raise ValueError("default_score: regret takes steps of refinement and is never the default")
        if "regret" in self.scores and not ("refine" in self.graphs and self.calibration.refine):
            raise ValueError("scores: regret is calibrated with a refine graph and at least one step of refinement")
        given = self.graph_scores
        if unmade := [score for score in self.scores if score in PASS_SCORES and score not in given]:
            raise ValueError(f"scores: no graph gives {', '.join(unmade)}")
        return self


def graph_contract(graph: str, data: ImageInput | TabularInput, latent_size: int) -> Graph:
    """The inputs and outputs that the contract gives to `graph` for this kind of data and latent size."""

    def per_row(name: str, *shape: int, dtype: Literal["float32", "float64", "uint8"], unit: str) -> Tensor:
        return Tensor(name=name, dtype=dtype, shape=("batch", *shape), unit=unit)

    x = per_row("x", *data.shape, dtype=data.dtype, unit="data")
    # Answers in data units are not rounded to the levels of the data: an expectation lies between them.
    answer: Literal["float32", "float64"] = "float64" if data.kind == "tabular" else "float32"
    z = per_row("z", latent_size, dtype="float32", unit="latent")
    noise = Tensor(name="noise", dtype="float32", shape=("draws", latent_size), unit="standard deviations")
    bounds = tuple(
        per_row(name, dtype="float64", unit="share of draws" if name == "ess" else "nats") for name in BOUNDS
    )
    mean = per_row("mean", latent_size, dtype="float32", unit="latent")
    log_variance = per_row("log_variance", latent_size, dtype="float32", unit="log latent²")
    x_mean = per_row("x_mean", *data.shape, dtype=answer, unit="data")
    state = (
        mean,
        log_variance,
        per_row("first_moment", 2 * latent_size, dtype="float32", unit="nats per unit of mean and of log_variance"),
        per_row("second_moment", 2 * latent_size, dtype="float32", unit="those of first_moment, squared"),
        per_row("step", dtype="float32", unit="steps"),
    )
    next_state = tuple(tensor.model_copy(update={"name": f"next_{tensor.name}"}) for tensor in state)

    def normal(size: int) -> Tensor:
        return per_row("normal", size, dtype="float32", unit="standard deviations")

    def uniform(size: int) -> Tensor:
        return per_row("uniform", size, dtype="float32", unit="probability")

    size = len(data.features)
    explanation = (
        per_row("feature_log_likelihood", *data.shape, dtype="float64", unit="nats"),
        per_row("latent_kl", latent_size, dtype="float64", unit="nats"),
    )
    typicality = per_row("typicality", dtype="float64", unit="squared standard deviations")
    multiscale_residual = per_row("multiscale_residual", dtype="float64", unit="data")
    contract = {
        "encoder": Graph(inputs=(x,), outputs=(mean, log_variance)),
        "decoder": Graph(inputs=(z,), outputs=(x_mean,)),
        "elbo": Graph(inputs=(x, noise), outputs=bounds),
        "explain": Graph(inputs=(x, noise), outputs=explanation),
        "draw": Graph(inputs=(z, normal(size), uniform(size)), outputs=(x_mean.model_copy(update={"name": "x"}),)),
        "prior": Graph(inputs=(normal(latent_size), uniform(1)), outputs=(z,)),
        "refine": Graph(inputs=(x, noise, *state), outputs=(*bounds, *next_state)),
        "scores": Graph(
            inputs=(x,), outputs=(typicality, multiscale_residual) if data.kind == "image" else (typicality,)
        ),
    }
    return contract[graph]
