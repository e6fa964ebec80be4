"""The manifest: what a bundle says of itself."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, JsonValue, model_validator

from service.bundle.folder import check_files
from service.bundle.graphs import OPTIONAL_GRAPHS, REQUIRED_GRAPHS, Graph, graph_contract
from service.bundle.inputs import Input, Record

FORMAT_VERSION = "1.0"
CALIBRATION = "calibration.npz"
MISSING_CELLS = "missing_cells.npz"
GOLDEN = "golden.npz"
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

ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class File(Record):
    """What a file of the bundle must be."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0, description="Bytes.")


class Split(Record):
    """One of the disjoint parts the data was divided into."""

    rows: int
    sha256: str = Field(description="Digest of the row numbers (int64, ascending) that make up the part.")


class Recalibration(Record):
    """How the held-out rows differ from those of the version before."""

    version: int = Field(ge=1, description="The version before.")
    bundle: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of its manifest.")
    added: int = Field(ge=0, description="Confirmed normal rows that came in.")
    removed: int = Field(ge=0, description="Confirmed anomalies that went out.")


class Provenance(Record):
    """Where a bundle comes from."""

    recipe: dict[str, JsonValue] = Field(default={})
    data_sha256: str | None = Field(default=None, description="Digest of all rows as the trainer read them.")
    splits: dict[str, Split] = Field(default={})
    commit: str | None = Field(default=None, description="The trainer's source revision.")
    packages: dict[str, str] = Field(default={})
    copy_of: str | None = Field(default=None, description="SHA-256 of the manifest of the version that was promoted.")
    recalibrations: tuple[Recalibration, ...] = Field(
        default=(), description="Since the training, the first one first."
    )


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
    likelihood: str = Field(max_length=1000)
    prior: str = Field(max_length=1000)
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
    def title(self) -> str:
        """Name and version, for people."""
        return f"{self.name} {self.version}"

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
