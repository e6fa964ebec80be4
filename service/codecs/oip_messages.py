"""The messages of the Open Inference Protocol, under /v2: checked by its codec, described on the OpenAPI page."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from service.errors import InvalidError, suggest
from service.scoring import LARGEST, ElboQuery, NumDraws, OnError, Refine, Score, Seed

Shape = list[Annotated[int, Field(ge=0, le=LARGEST)]]


class Checked(BaseModel):
    """Base of what clients send within a larger document: read as it stands, without conversions.

    Unknown members are ignored, since other servers have theirs; but not one that is like a name of this service, which
    is taken for a misspelt one.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    @classmethod
    def check(cls, document: object, place: str = "") -> Self:
        """The document, which stands at `place` of the body, as an instance of this class.

        Raises:
            InvalidError: Names the first wrong place, as `inputs[0].shape[1]`.
        """
        try:
            return cls.model_validate(document, extra="forbid")
        except ValidationError as error:
            first = next(filter(_is_refused, error.errors(include_url=False, include_input=False)), None)
            if first is None:
                return cls.model_validate(document)
            steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
            what = _unknown(first["loc"][-1]) if first["type"] == "extra_forbidden" else first["msg"]
            raise InvalidError(what, (place + steps).removeprefix(".") or "body") from error


class TensorParameters(Checked):
    """Parameters of inputs and outputs alike."""

    shared_memory_region: Any = Field(default=None, description="Refused: data come and go by HTTP.")
    shared_memory_byte_size: Any = None
    shared_memory_offset: Any = None


class InputParameters(TensorParameters):
    """How an input's values are sent."""

    binary_data_size: int | None = Field(
        default=None, ge=0, le=LARGEST, description="Bytes of this input's data after the JSON."
    )


class InferInput(Checked):
    """One input tensor."""

    name: str
    shape: Shape = Field(max_length=8)
    datatype: str = Field(description="UINT8 to UINT64, INT8 to INT64, FP16, FP32 or FP64.")
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = Field(default=None, description="The values, flat or nested; null and NaN are missing.")


class OutputParameters(TensorParameters):
    """How an output is wanted."""

    binary_data: bool | None = Field(default=None, description="After the JSON rather than in it.")
    classification: int | None = Field(default=None, description="Refused: no output is a class.")


class InferOutput(Checked):
    """One output that is wanted."""

    name: str
    parameters: OutputParameters = OutputParameters()


MAX_TENSORS = 100
"""Inputs or outputs of a request; a graph has one input, and fewer than ten outputs."""


class InferRequest(Checked):
    """The JSON part of a request; the binary inputs' bytes follow it, in order."""

    id: str | None = Field(default=None, max_length=1024, description="Echoed.")
    parameters: dict[str, Any] = Field(
        default={},
        description="binary_data_output, timeout (microseconds) and priority (of no effect); for the bounds num_draws, "
        "seed, score, refine and on_error, for explanations num_draws, seed and on_error, for the posterior on_error, "
        "for draws seed. Names like these are refused; "
        "others are ignored.",
    )
    inputs: list[InferInput] = Field(max_length=MAX_TENSORS)
    outputs: list[InferOutput] = Field(
        default=[], max_length=MAX_TENSORS, description="The outputs wanted; all if empty."
    )


class InferParameters(Checked):
    """Parameters of every request."""

    binary_data_output: bool = False
    timeout: int = Field(default=0, ge=0, le=LARGEST)
    priority: int = Field(default=0, ge=0, le=LARGEST)


class EncodeParameters(InferParameters):
    """Parameters of a graph that takes instances."""

    on_error: OnError = "fail"


class DrawParameters(InferParameters):
    """Parameters of a graph that draws."""

    seed: Seed = None


class ExplainParameters(DrawParameters, EncodeParameters):
    """Parameters of a graph that averages over draws."""

    num_draws: NumDraws = None


class ElboParameters(ExplainParameters):
    """Parameters of the bounds."""

    score: Score = None
    refine: Refine = None


def _is_refused(problem: ErrorDetails) -> bool:
    """Whether a request is refused for it; an unknown member is only where it is like a name known elsewhere."""
    return problem["type"] != "extra_forbidden" or bool(suggest(str(problem["loc"][-1]), _NAMES))


def _unknown(member: int | str) -> str:
    return "is not read here" if member in _NAMES else f"is unknown{suggest(str(member), _NAMES)}"


_NAMES = {
    name
    for schema in (InferRequest, InferInput, InputParameters, InferOutput, OutputParameters, ElboParameters, ElboQuery)
    for name in schema.model_fields
}


class InferAnswerOutput(BaseModel):
    """One output tensor."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float | None] | list[str] | None = Field(
        default=None, description="The values, flat, row-major; NaN is null."
    )
    parameters: InputParameters | None = None


class InferAnswer(BaseModel):
    """The JSON part of an answer; the binary outputs' bytes follow it, in order."""

    id: str | None = Field(default=None, description="The request's.")
    model_name: str
    model_version: str
    outputs: list[InferAnswerOutput]


class ServerLive(BaseModel):
    """The process answers."""

    live: Literal[True] = True


class ServerReady(BaseModel):
    """Every model, or the one asked about, answers its golden rows as it should."""

    ready: Literal[True] = True


class ServerMetadata(BaseModel):
    """The server and the extensions of the protocol that it has."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """An input or output."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1 is the batch.")


class ModelMetadata(BaseModel):
    """A model's inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class TensorConfig(BaseModel):
    """An input or output, without the batch."""

    name: str
    data_type: str
    dims: list[int]


class ModelConfiguration(BaseModel):
    """The part of a Triton model's configuration that load generators read."""

    name: str
    platform: str
    backend: str
    max_batch_size: int = Field(description="Most rows in one request under the bundle's own draws.")
    dynamic_batching: dict[str, int] = Field(default={}, description="Present: requests share batches.")
    input: list[TensorConfig]
    output: list[TensorConfig]


class Duration(BaseModel):
    """So many, in so much time."""

    count: int = 0
    ns: int = 0


class Durations(BaseModel):
    """Time by stage and outcome; what comes before the queue and after the engine is not timed apart."""

    success: Duration = Field(description="Requests' rows computed; time in the queue and of engine calls.")
    fail: Duration = Field(description="Engine calls that failed.")
    queue: Duration = Field(description="Requests' rows; time until their first engine call.")
    compute_input: Duration = Duration()
    compute_infer: Duration = Field(description="Engine calls, each once however many requests share it.")
    compute_output: Duration = Duration()


class ModelStatistics(BaseModel):
    """Statistics of a model since the start, under /v2 or not."""

    name: str
    version: str
    last_inference: int = Field(description="Milliseconds since 1970; 0 if there was none.")
    inference_count: int = Field(description="Rows.")
    execution_count: int = Field(description="Engine calls.")
    inference_stats: Durations
    batch_stats: list[dict[str, int]] = []


class Statistics(BaseModel):
    """Statistics of models."""

    model_stats: list[ModelStatistics]


class ProtocolError(BaseModel):
    """Any failure under /v2."""

    error: str = Field(description="The place of the first offending value, or the status in words; what is wrong.")
