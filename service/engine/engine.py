"""Engines: run a bundle's graphs on a device.

`Engine` is all that the rest of the service knows of a device. A row's answer from `OnnxEngine` on the CPU is the same
bits in any batch: each session computes a batch on the one thread that calls it. Several batches run
at once instead, so that no result depends on how work was divided.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import onnxruntime as ort

from service.bundle import WEIGHTS, Array, Bundle, Graph, Tensor
from service.engine.devices import PROVIDERS, Device, Kind, Precision, Target, choose
from service.engine.onnx_file import check_graph
from service.errors import BundleError, DeviceError

RELATIVE_TOLERANCE = 1e-5
"""Beside the manifest's absolute tolerance in nats: float32 keeps about seven digits."""

ROW_VALUES = 2**12
"""Values of a row up to which a call takes as many row-draws as it may; of larger rows it takes fewer. A convolutional
decoder of pictures takes 165 bytes for each value of a call."""

NO_FOLDER = "/dev/null/none"
"""The folder in which ONNX Runtime looks for external data that are not in memory; it cannot exist."""

_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(uint8)": "uint8"}


class Engine(Protocol):
    """What runs a bundle's graphs. Safe to call from several threads."""

    @property
    def device(self) -> Kind:
        """The device in use."""

    @property
    def precision(self) -> Precision:
        """The lowest that a graph is computed in where its tensors are float32."""

    @property
    def refused(self) -> Mapping[Precision, float]:
        """Lower precisions that were asked for, and their golden errors, which are too large."""

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every output of `graph` by name; inputs have the dtypes and shapes of the manifest."""


class OnnxEngine:
    """Runs a bundle on ONNX Runtime, from arrays to arrays.

    Args:
        graphs: The manifest's graphs.
        files: The bundle's files; the sessions are built from these very bytes, so what was verified is what runs.
        device: See `devices.choose`.

    Raises:
        DeviceError: The device asked for cannot be used.
        BundleError: A graph cannot be loaded, or its real inputs or outputs are not the manifest's.
    """

    def __init__(self, graphs: Mapping[str, Graph], files: Mapping[str, bytes], device: Device = "auto") -> None:
        kind = choose(device)
        target = Target(kind, precision=PROVIDERS[kind].precisions[0])
        self.device: Kind = kind
        self.precision = target.precision
        self.refused: Mapping[Precision, float] = {}
        self._outputs = {name: {t.name: t.shape[1:] for t in graph.outputs} for name, graph in graphs.items()}
        self._sessions = {name: open_session(files, name, graph, target) for name, graph in graphs.items()}

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self._outputs[graph]
        answer = dict(zip(outputs, self._sessions[graph].run(list(outputs), dict(inputs)), strict=True))
        for name, shape in outputs.items():
            if not answer[name].ndim or answer[name].shape[1:] != shape:  # By an `If`, it may depend on the rows.
                raise ValueError(f"{graph}.onnx: {name} has shape {answer[name].shape}; a row's is {shape}")
        return answer


def fitting(row_draws: int, values: int) -> int:
    """How many of so many row-draws are computed at once, at least one, if a row has so many values."""
    return max(1, row_draws * ROW_VALUES // max(ROW_VALUES, values))


def verify_golden(engine: Engine, bundle: Bundle) -> None:
    """Run every graph on its golden rows, after which none is new to the device, and compare shapes and ELBOs.

    Raises:
        BundleError: A graph fails, or its shapes or the ELBOs are not the bundle's.
    """
    for name, graph in bundle.manifest.graphs.items():
        try:
            answer = engine.run(name, {tensor.name: bundle.golden[name][tensor.name] for tensor in graph.inputs})
        except Exception as error:  # ONNX Runtime's own kinds share no public base.
            raise BundleError(f"{name}.onnx: on {engine.device} it fails its golden rows: {error}") from error
        for tensor in graph.outputs:
            if answer[tensor.name].shape != bundle.golden[name][tensor.name].shape:
                raise BundleError(
                    f"{name}.onnx: on {engine.device} the golden {tensor.name} has shape {answer[tensor.name].shape}"
                )
        if name == "elbo" and not (distance := golden_error(answer, bundle)) <= 1:
            raise BundleError(f"on {engine.device} the golden ELBOs are {distance:.3g} times the tolerance away")


def golden_error(answer: Mapping[str, Array], bundle: Bundle) -> float:
    """How far golden ELBOs lie from the bundle's, as a share of what is allowed: above 1 is a failure.

    A row may differ by the manifest's tolerance in nats plus 1e-5 of its value. An answer that is not a number, or of
    the wrong shape, counts as infinitely far.
    """
    elbo, expected = answer["elbo"], bundle.golden["elbo"]["elbo"]
    if elbo.shape != expected.shape or not np.all(np.isfinite(elbo)):
        return float("inf")
    allowed = bundle.manifest.tolerance + RELATIVE_TOLERANCE * np.abs(expected)
    return float(np.max(np.abs(elbo - expected) / allowed))


def open_session(
    files: Mapping[str, bytes], name: str, graph: Graph, target: Target, *, capture: bool = False
) -> ort.InferenceSession:
    """A session that runs the graph `name` of a bundle's files on a device; see `Provider.options` for `capture`.

    Raises:
        DeviceError: ONNX Runtime would run it elsewhere.
        BundleError: It cannot be loaded, or its real inputs or outputs are not the manifest's.
    """
    check_graph(files[f"{name}.onnx"], f"{name}.onnx", weights=WEIGHTS in files)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.load_model_format", "ONNX")  # The format that was checked.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NO_FOLDER)
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # Failures matter, but a capture may fail; its default logger warns of every session that CUDA is no plugin.
    options.log_severity_level = 4 if capture else 3
    ort.set_default_logger_severity(3)
    if weights := files.get(WEIGHTS):
        options.add_external_initializers_from_files_in_memory([WEIGHTS], [weights], [len(weights)])
    providers = target.provider.options(target, capture=capture)
    try:
        # Without its fallback, which would silently go on with the CPU after a failure.
        session = ort.InferenceSession(files[f"{name}.onnx"], options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime raises its own pybind kinds, which share no public base.
        raise BundleError(f"{name}.onnx: ONNX Runtime cannot load it: {error}") from error
    if target.provider.name not in session.get_providers():
        raise DeviceError(f"ONNX Runtime will not run {name}.onnx on {target.kind}; its message above says why")
    _check_signature(name, session, graph)
    return session


def _check_signature(name: str, session: ort.InferenceSession, graph: Graph) -> None:
    for role, real, listed in (
        ("input", session.get_inputs(), graph.inputs),
        ("output", session.get_outputs(), graph.outputs),
    ):
        found = {node.name: node for node in real}
        if found.keys() != {tensor.name for tensor in listed}:
            names = ", ".join(tensor.name for tensor in listed)
            raise BundleError(f"{name}.onnx: {role}s are {', '.join(found)}; the manifest says {names}")
        for tensor in listed:
            node = found[tensor.name]
            if _DTYPES.get(node.type) != tensor.dtype or not _same_shape(node.shape, tensor):
                raise BundleError(
                    f"{name}.onnx: {role} {tensor.name} is {node.type} of shape {node.shape}; "
                    f"the manifest says {tensor.dtype} of shape {list(tensor.shape)}"
                )


def _same_shape(real: list[int | str | None], tensor: Tensor) -> bool:
    """Sizes chosen at run time may have any name, or none; fixed sizes must agree."""
    return len(real) == len(tensor.shape) and all(
        isinstance(size, str | None) if isinstance(wanted, str) else size == wanted
        for size, wanted in zip(real, tensor.shape, strict=True)
    )
