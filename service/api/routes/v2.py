"""`/v2`: the Open Inference Protocol with its binary tensors, so that Triton's clients work unchanged.

Each graph of a bundle is a model of its own: `digits` answers the bounds, `digits.encoder` the posterior, and so on.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Header, Path, Request, Response

from service.api.budget import ByteBudget
from service.api.content import MODEL_HEADERS, hold_answer, identify, read_bytes
from service.api.endpoint import PresentRequest
from service.api.graphs import Graph, served_graphs
from service.api.openapi import body, check_ready, describe_headers, failure, find_model
from service.api.time_limit import in_time
from service.bundle import Array, Tensor
from service.codecs.child import ChildProcess, LongBytes
from service.codecs.json import Json
from service.codecs.oip import Inference, datatype, read_raw, read_request, write_answer
from service.codecs.oip_messages import (
    DrawParameters,
    Duration,
    Durations,
    ElboParameters,
    EncodeParameters,
    ExplainParameters,
    InferAnswer,
    InferParameters,
    InferRequest,
    ModelConfiguration,
    ModelMetadata,
    ModelStatistics,
    ServerLive,
    ServerMetadata,
    ServerReady,
    Statistics,
    TensorConfig,
    TensorMetadata,
)
from service.codecs.rows import PROBLEM
from service.errors import InvalidError, NotFoundError, RequestError, TooLargeError
from service.observability.metrics import Telemetry
from service.scoring import LARGEST
from service.threads import in_thread

BINARY = "application/octet-stream"
MAX_JSON = 2**24
"""Most bytes of a request's JSON, whose values become a hundred bytes and more for each pair; binary data has no limit
but the body's."""

HEADER_LENGTH = "Inference-Header-Content-Length"
PLATFORM = "onnxruntime_onnx"

router = APIRouter(prefix="/v2", responses=failure())
graphs = APIRouter()

_PARAMETERS: dict[str, type[InferParameters]] = {
    "elbo": ElboParameters,
    "encoder": EncodeParameters,
    "explain": ExplainParameters,
    "draw": DrawParameters,
}
"""The graphs that take more parameters than every request does."""

_PLACES = {"instances": "x", "latents": "z", "query": "parameters"}
"""What the protocol calls the places that the ordinary endpoints name."""


async def named(
    request: Request, name: Annotated[str, Path(description="NAME, or NAME.GRAPH as NAME.encoder.")]
) -> Graph:
    """The graph that the path names."""
    served = {graph.name: graph for graph in served_graphs(find_model(request, name.partition(".")[0] or name))}
    if name not in served:
        raise NotFoundError(f"no model {name!r} is served; there are {', '.join(served)}")
    return served[name]


async def versioned(version: Annotated[str, Path(description="Its version.")]) -> None:
    """Describes the path parameter `version`."""


Named = Annotated[Graph, Depends(named)]


@router.get("")
async def metadata(request: Request) -> ServerMetadata:
    """The server's name and version, and the extensions of the protocol that it has."""
    extensions = ["binary_tensor_data", "model_configuration", "statistics"]
    return ServerMetadata(name="lowerbound", version=request.app.version, extensions=extensions)


@router.get("/health/live")
async def live() -> ServerLive:
    """The process answers."""
    return ServerLive()


@router.get("/health/ready")
async def ready(request: Request) -> ServerReady:
    """Every model's engine answers its golden rows as the bundle says."""
    await check_ready(request)
    return ServerReady()


@router.get("/models/stats")
async def all_statistics(request: Request) -> Statistics:
    """Statistics of every model since the start, under /v2 or not, over all processes."""
    totals = await _totals(request)
    models = request.app.state.loader.registry
    return Statistics(model_stats=[_statistics(totals, graph) for model in models for graph in served_graphs(model)])


@graphs.get("")
async def model_metadata(request: Request, graph: Named) -> ModelMetadata:
    """The model's versions, inputs and outputs."""
    versions = request.app.state.loader.registry.names()[graph.model.manifest.name]

    def describe(tensor: Tensor) -> TensorMetadata:
        shape = [-1 if isinstance(size, str) else size for size in tensor.shape]
        return TensorMetadata(name=tensor.name, datatype=datatype(tensor.dtype), shape=shape)

    return ModelMetadata(
        name=graph.name,
        versions=[str(version) for version in versions],
        platform=PLATFORM,
        inputs=[describe(graph.input)],
        outputs=[describe(tensor) for tensor in graph.outputs],
    )


@graphs.get("/ready")
async def model_ready(graph: Named) -> ServerReady:
    """The model's engine answers its golden rows as the bundle says."""
    await graph.model.check()
    return ServerReady()


@graphs.get("/config")
async def configuration(request: Request, graph: Named) -> ModelConfiguration:
    """What load generators read of a Triton model's configuration."""

    def describe(tensor: Tensor) -> TensorConfig:
        dims = [size for size in tensor.shape if isinstance(size, int)]
        return TensorConfig(name=tensor.name, data_type=f"TYPE_{datatype(tensor.dtype)}", dims=dims)

    return ModelConfiguration(
        name=graph.name,
        platform=PLATFORM,
        backend="onnxruntime",
        max_batch_size=max(1, request.app.state.settings.max_queue // graph.row_draws),
        input=[describe(graph.input)],
        output=[describe(tensor) for tensor in graph.outputs],
    )


@graphs.get("/stats")
async def statistics(request: Request, graph: Named) -> Statistics:
    """Statistics of the model since the start, under /v2 or not, over all processes."""
    return Statistics(model_stats=[_statistics(await _totals(request), graph)])


@graphs.post(
    "/infer",
    responses={
        200: {
            "model": InferAnswer,
            "content": {BINARY: {"schema": {"type": "string", "format": "binary"}}},
            "headers": describe_headers({HEADER_LENGTH: "Bytes of JSON before the binary data."} | MODEL_HEADERS),
        }
    },
    openapi_extra=body(InferRequest, (Json.media_type, BINARY)),
)
async def infer(
    request: PresentRequest,
    graph: Named,
    header_length: Annotated[
        int | None,
        Header(
            alias=HEADER_LENGTH, le=LARGEST, description="Bytes of JSON before the binary data; 0 if there is no JSON."
        ),
    ] = None,
) -> Response:
    """The outputs for the tensors sent, in JSON, in binary or in both; `Content-Type` is not looked at."""
    with graph.model.in_use, _in_terms_of_the_protocol():
        graph.model.check_room()
        child: ChildProcess = request.scope["app"].state.child
        sent = await read_bytes(request)
        whole = await sent.copied() if isinstance(sent, LongBytes) else sent
        inference = await _read(whole, header_length, graph, child)
        parameters = _PARAMETERS.get(graph.graph, InferParameters).check(inference.parameters, "parameters")
        marked = isinstance(parameters, EncodeParameters) and parameters.on_error == "mark"
        wanted = _wanted(inference, graph, [PROBLEM] if marked else [])
        tensor = _only_input(inference, graph)
        inferred = graph.infer(tensor, parameters, child)
        columns = await (in_time(parameters.timeout / 1e6, inferred) if parameters.timeout else inferred)
        request.rows = len(tensor)
    binary = {name for name, own in wanted.items() if (parameters.binary_data_output if own is None else own)}
    if PROBLEM in columns:
        columns[PROBLEM] = [text and _in_terms(text) for text in columns[PROBLEM]]
    head = {"id": inference.id} if inference.id is not None else {}
    head |= {"model_name": graph.name, "model_version": graph.version}
    outputs = {name: columns[name] for name in wanted}
    quick = sum(np.size(values) for name, values in outputs.items() if name not in binary) <= Json.quick_numbers
    answers: ByteBudget = request.scope["app"].state.answers
    held = answers.hold(8 * sum(map(np.size, outputs.values())))
    answer, length = await child.call(quick, write_answer, head, outputs, binary)
    hold_answer(request, len(answer), held)
    headers = identify(graph.model) | ({} if length is None else {HEADER_LENGTH: str(length)})
    return Response(answer, media_type=Json.media_type if length is None else BINARY, headers=headers)


router.include_router(graphs, prefix="/models/{name}")
router.include_router(graphs, prefix="/models/{name}/versions/{version}", dependencies=[Depends(versioned)])


async def _read(sent: bytes, header_length: int | None, graph: Graph, child: ChildProcess) -> Inference:
    if header_length == 0:
        row = tuple(size for size in graph.input.shape if isinstance(size, int))
        return read_raw(sent, graph.input.name, graph.input.dtype, row)
    size = len(sent) if header_length is None else min(header_length, len(sent))
    if size > MAX_JSON:
        raise TooLargeError(f"{size:,} bytes of JSON; at most {MAX_JSON:,} are read, send binary data", "body")
    return await child.call(size <= Json.quick_bytes, read_request, sent, header_length)


def _only_input(inference: Inference, graph: Graph) -> Array:
    """The tensor that the graph takes; it takes one."""
    if inference.inputs.keys() != {graph.input.name}:
        names = ", ".join(map(repr, inference.inputs)) or "none"
        raise InvalidError(f"{graph.name} takes the one input {graph.input.name!r}, not {names}", "inputs")
    return inference.inputs[graph.input.name]


def _wanted(inference: Inference, graph: Graph, more: Sequence[str]) -> dict[str, bool | None]:
    """The outputs to send, and whether each is to be binary where the request says so."""
    known = [*(tensor.name for tensor in graph.outputs), *more]
    for i, name in enumerate(inference.outputs):
        if name not in known:
            raise InvalidError(f"no output is named {name!r}; there are {', '.join(known)}", f"outputs[{i}].name")
    return dict(inference.outputs) or dict.fromkeys(known)


async def _totals(request: Request) -> dict[tuple[str, ...], float]:
    """See `Telemetry.totals`; where there are several processes their files are read, which takes a while."""
    telemetry: Telemetry = request.app.state.telemetry
    telemetry.flush()
    return await in_thread(telemetry.totals)


def _statistics(totals: dict[tuple[str, ...], float], graph: Graph) -> ModelStatistics:
    def total(name: str) -> float:
        return totals.get((f"lowerbound_{name}", graph.graph, graph.model.manifest.name, graph.version), 0)

    def duration(name: str) -> Duration:
        return Duration(count=int(total(f"{name}_count")), ns=int(1e9 * total(f"{name}_sum")))

    queue, compute = duration("queue_seconds"), duration("compute_seconds")
    return ModelStatistics(
        name=graph.name,
        version=graph.version,
        last_inference=int(1000 * total("last_batch_timestamp_seconds")),
        inference_count=int(total("batch_rows_sum")),
        execution_count=int(total("batch_rows_count")),
        inference_stats=Durations(
            success=Duration(count=queue.count, ns=queue.ns + compute.ns),
            fail=Duration(count=int(total("engine_errors_total"))),
            queue=queue,
            compute_infer=compute,
        ),
    )


@contextmanager
def _in_terms_of_the_protocol() -> Iterator[None]:
    """Errors name the places as the protocol's clients know them."""
    try:
        yield
    except RequestError as error:
        error.location = error.location and _in_terms(error.location)
        raise


def _in_terms(place: str) -> str:
    return re.sub(r"^(instances|latents|query)\b", lambda found: _PLACES[found[0]], place)
