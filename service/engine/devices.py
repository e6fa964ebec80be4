"""Devices: which there are, what is missing for one, its memory, and what ONNX Runtime is told about it."""

import contextlib
import ctypes
import io
import mmap
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from service.errors import DeviceError

Device = Literal["auto", "cpu", "cuda", "tensorrt"]
Kind = Literal["cpu", "cuda", "tensorrt"]
Precision = Literal["float32", "tf32", "float16"]

PROVIDERS: dict[Kind, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

PRECISIONS: dict[Kind, tuple[Precision, ...]] = {
    "cpu": ("float32",),
    "cuda": ("float32", "tf32"),
    "tensorrt": ("tf32", "float16"),
}
"""Precisions of matrix products on a device, the most exact first. ONNX Runtime has no option that turns TensorRT's
TF32 off, and none that turns float16 on for CUDA, which takes the graphs as they are.
"""


@dataclass(frozen=True)
class Target:
    """A device and the options with which graphs run on it.

    Attributes:
        kind: What computes.
        number: Which of the visible devices.
        precision: Of matrix products.
        memory: Most bytes that one graph's intermediate results may take on the device; None: as many as there are.
        cache: Folder where TensorRT keeps what it has compiled; None: nowhere.
    """

    kind: Kind
    number: int = 0
    precision: Precision = "float32"
    memory: int | None = None
    cache: Path | None = None

    @property
    def memory_kind(self) -> str:
        """The memory of its tensors, in ONNX Runtime's words."""
        return "cpu" if self.kind == "cpu" else "cuda"

    def providers(self, *, capture: bool = False) -> list[tuple[str, dict[str, str]]]:
        """The providers for ONNX Runtime, the preferred first; `capture` asks for captured CUDA graphs.

        Of the defaults of ONNX Runtime's CUDA provider three are changed: arenas that double whenever they grow; TF32
        that nobody asked for; and convolutions chosen by a race, whose winner may be another after the next start.
        """
        if self.kind == "cpu":
            return [(PROVIDERS["cpu"], {})]
        cuda = {
            "device_id": str(self.number),
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": str(int(self.precision != "float32")),
            "enable_cuda_graph": str(int(capture)),
        }
        if self.memory is not None:
            cuda["gpu_mem_limit"] = str(self.memory)
        if self.kind == "cuda":
            return [(PROVIDERS["cuda"], cuda)]
        tensorrt = {"device_id": str(self.number), "trt_fp16_enable": str(self.precision == "float16")}
        if self.cache is not None:
            for name in ("engine", "timing"):
                tensorrt |= {f"trt_{name}_cache_enable": "True", f"trt_{name}_cache_path": str(self.cache)}
        return [(PROVIDERS["tensorrt"], tensorrt), (PROVIDERS["cuda"], cuda)]


def choose(device: Device) -> Kind:
    """What `device` comes to on this machine: `auto` takes CUDA where it works, and the CPU elsewhere.

    Raises:
        DeviceError: The device asked for cannot be used; names the library that is missing.
    """
    if device == "cpu":
        return "cpu"
    kind: Kind = "cuda" if device == "auto" else device
    problem = _problem(kind)
    if problem is None:
        return kind
    if device == "auto":
        return "cpu"
    raise DeviceError(f"device={device} cannot be used: {problem}")


def count(kind: Kind) -> int:
    """How many devices of a kind are visible; `CUDA_VISIBLE_DEVICES` hides others."""
    if kind == "cpu":
        return 1
    driver, number = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
    if (error := driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(number))) or not number.value:
        raise DeviceError(f"the NVIDIA driver finds no GPU (CUDA error {error})")
    return number.value


def staging(shape: Sequence[int], dtype: npt.DTypeLike, kind: Kind) -> npt.NDArray[Any]:
    """An array of zeros on the host, to copy to a device from; a GPU reads it without the processor's help.

    Raises:
        DeviceError: The memory cannot be locked into its place.
    """
    pages = mmap.mmap(-1, max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize))  # Of which no other array has a part.
    array: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer=pages)
    if kind != "cpu":
        runtime = ctypes.CDLL(f"libcudart.so.{ort.cuda_version.partition('.')[0]}")
        address = ctypes.c_void_p(array.ctypes.data)
        if error := runtime.cudaHostRegister(address, ctypes.c_size_t(len(pages)), 0):
            raise DeviceError(f"{len(pages):,} bytes cannot be pinned (CUDA error {error})")
        weakref.finalize(array, runtime.cudaHostUnregister, address)
    return array


def _problem(kind: Kind) -> str | None:
    """Why a kind of device cannot be used, naming the library that is missing; None where everything loads."""
    if PROVIDERS[kind] not in ort.get_available_providers():
        return "this ONNX Runtime is built without CUDA; install onnxruntime-gpu (Linux, x86-64) instead of onnxruntime"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"the NVIDIA driver is not there ({error})"
    try:
        count(kind)
    except DeviceError as error:
        return str(error)
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()  # Finds CUDA and cuDNN in NVIDIA's wheels, and prints what it does not find.
    for name, library in (("cuda", "CUDA"), ("tensorrt", "TensorRT")):
        if name in {"cuda", kind}:
            try:
                ctypes.CDLL(str(Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{name}.so"))
            except OSError as error:
                return f"a {library} library is not there ({error})"
    return None
