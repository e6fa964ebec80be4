"""Engines: run a bundle's graphs on a device.

`Engine` is all that the rest of the service knows of a device. A row's answer from `OnnxEngine` on the CPU is the same
bits whatever else is in the batch: each session computes a batch on the one thread that calls it (parallelism comes
from running several batches at once), so that no result depends on how work was divided.

This module must not know about HTTP, requests, queues or torch.
"""

import contextlib
import ctypes
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import onnxruntime as ort

from service.bundle import WEIGHTS, Array, Bundle
from service.errors import BundleError, DeviceError
from service.manifest import Graph, Tensor

Device = Literal["auto", "cpu", "cuda"]

RELATIVE_TOLERANCE = 1e-5
"""Beside the manifest's absolute tolerance in nats: float32 keeps about seven digits."""

_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(uint8)": "uint8"}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Engine(Protocol):
    """What runs a bundle's graphs. Safe to call from several threads."""

    @property
    def device(self) -> str:
        """The device in use: `cpu` or `cuda`."""

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every output of `graph` by name; inputs have the dtypes and shapes of the manifest."""


class OnnxEngine:
    """Runs a bundle on ONNX Runtime.

    Args:
        graphs: The manifest's graphs.
        files: The bundle's files; the sessions are built from these very bytes, so what was verified is what runs.
        device: `cpu`; `cuda`, which raises rather than fall back; or `auto`, CUDA where it works and the CPU elsewhere.

    Raises:
        DeviceError: `cuda` was asked for and cannot be used.
        BundleError: A graph cannot be loaded, or its real inputs or outputs are not the manifest's.
    """

    def __init__(self, graphs: Mapping[str, Graph], files: Mapping[str, bytes], device: Device = "auto") -> None:
        ort.disable_telemetry_events()  # What is served is nobody else's business.
        self._device = _choose(device)
        self._outputs = {name: [tensor.name for tensor in graph.outputs] for name, graph in graphs.items()}
        self._sessions = {name: _session(files, name, self._device) for name in graphs}
        for name, graph in graphs.items():
            _check_signature(name, self._sessions[name], graph)

    @property
    def device(self) -> str:
        return self._device

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        names = self._outputs[graph]
        return dict(zip(names, self._sessions[graph].run(names, dict(inputs)), strict=True))


def prove(engine: Engine, bundle: Bundle) -> None:
    """Run every graph on its golden rows, after which none is new to the device, and compare the ELBOs.

    Raises:
        BundleError: A graph fails, or the ELBOs are not the bundle's.
    """
    for name, graph in bundle.manifest.graphs.items():
        try:
            answer = engine.run(name, {tensor.name: bundle.golden[name][tensor.name] for tensor in graph.inputs})
        except Exception as error:  # ONNX Runtime's own kinds share no public base.
            raise BundleError(f"{name}.onnx: on {engine.device} it fails its golden rows: {error}") from error
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


def _choose(device: Device) -> str:
    if device == "cpu":
        return "cpu"
    problem = _cuda_problem()
    if problem is None:
        return "cuda"
    if device == "cuda":
        raise DeviceError(f"device=cuda cannot be used: {problem}")
    return "cpu"


def _cuda_problem() -> str | None:
    """Why CUDA cannot be used, naming the library that is missing; None where everything loads."""
    if _PROVIDERS["cuda"] not in ort.get_available_providers():
        return "this ONNX Runtime is built without CUDA; install onnxruntime-gpu (Linux, x86-64) instead of onnxruntime"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"the NVIDIA driver is not there ({error})"
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()  # Finds CUDA and cuDNN in NVIDIA's wheels, and prints what it does not find.
    try:
        ctypes.CDLL(str(Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return f"a CUDA library is not there ({error})"
    return None


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _session(files: Mapping[str, bytes], graph: str, device: str) -> ort.InferenceSession:
    options = _options()
    if weights := files.get(WEIGHTS):
        options.add_external_initializers_from_files_in_memory([WEIGHTS], [weights], [len(weights)])
    try:
        session = ort.InferenceSession(files[f"{graph}.onnx"], options, providers=[_PROVIDERS[device]])
    except Exception as error:  # ONNX Runtime raises its own pybind kinds, which share no public base.
        raise BundleError(f"{graph}.onnx: ONNX Runtime cannot load it: {error}") from error
    if _PROVIDERS[device] not in session.get_providers():
        raise DeviceError(f"ONNX Runtime will not run {graph}.onnx on {device}; its message above says why")
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
