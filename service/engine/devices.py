"""Devices: which there are, what is missing for one, its memory, and what ONNX Runtime is told about it."""

import contextlib
import ctypes
import io
import mmap
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from service.engine.cores import available_cores
from service.errors import DeviceError

Device = Literal["auto", "cpu", "cuda", "tensorrt"]
Kind = Literal["cpu", "cuda", "tensorrt"]
Precision = Literal["float32", "tf32", "float16"]


@dataclass(frozen=True)
class Target:
    """A device and the options with which graphs run on it.

    Attributes:
        kind: Kind of device.
        number: Number among the visible devices.
        precision: Precision of matrix products.
        memory: Limit in bytes for one graph's intermediate results on the device; None: no limit.
        cache: Folder for engines that TensorRT has compiled; None: no cache.
    """

    kind: Kind
    number: int = 0
    precision: Precision = "float32"
    memory: int | None = None
    cache: Path | None = None

    @property
    def provider(self) -> "Provider":
        """The kind of device, with all that is special to it."""
        return PROVIDERS[self.kind]


class Provider(ABC):
    """A kind of device: everything that the engines need to know of it.

    Attributes:
        name: ONNX Runtime's name.
        precisions: Precisions of matrix products, the most exact first.
        memory_kind: The memory of tensors on the device, in ONNX Runtime's words.
        accelerates: Whether `AcceleratedEngine` runs it; else `OnnxEngine`, on one device in one precision.
        captures: Whether computations can be captured as CUDA graphs.
        max_batch: Most row-draws in one call, unless the user says otherwise.
    """

    name: ClassVar[str]
    precisions: ClassVar[tuple[Precision, ...]] = ("float32",)
    memory_kind: ClassVar[str] = "cpu"
    accelerates: ClassVar[bool] = False
    captures: ClassVar[bool] = False
    max_batch: ClassVar[int] = 512

    @abstractmethod
    def options(self, target: Target, *, capture: bool = False) -> list[tuple[str, dict[str, str]]]:
        """The providers of a session, the preferred first; `capture` asks for captured CUDA graphs."""

    def problem(self) -> str | None:
        """Why the device cannot be used, with the name of the missing library; None if it can."""
        return None

    def count(self) -> int:
        """Number of visible devices."""
        return 1

    def engine_threads(self, workers: int) -> int:
        """Calls at once in each of so many processes, unless the user says otherwise."""
        return max(1, available_cores() // workers)

    def staging(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array of zeros on the host, on pages of its own, that the device reads and writes fast.

        Raises:
            DeviceError: The memory cannot be pinned.
        """
        pages = mmap.mmap(-1, max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize))
        return np.ndarray(shape, dtype, buffer=pages)


class Cpu(Provider):
    """The processor."""

    name = "CPUExecutionProvider"

    def options(self, target: Target, *, capture: bool = False) -> list[tuple[str, dict[str, str]]]:
        return [(self.name, {})]


class Cuda(Provider):
    """NVIDIA GPUs by CUDA, which has no option for float16: it takes the graphs as they are."""

    name = "CUDAExecutionProvider"
    precisions: ClassVar[tuple[Precision, ...]] = ("float32", "tf32")
    memory_kind = "cuda"
    accelerates = True
    captures = True
    max_batch = 2**15

    def options(self, target: Target, *, capture: bool = False) -> list[tuple[str, dict[str, str]]]:
        """Three defaults of ONNX Runtime are changed.

        These are arenas that double whenever they grow, TF32 by default, and convolutions chosen by a race, whose
        winner may be another after the next start.
        """
        options = {
            "device_id": str(target.number),
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": str(int(target.precision != "float32")),
            "enable_cuda_graph": str(int(capture)),
        }
        if target.memory is not None:
            options["gpu_mem_limit"] = str(target.memory)
        return [(Cuda.name, options)]

    def problem(self) -> str | None:
        if self.name not in ort.get_available_providers():
            return "this ONNX Runtime has no CUDA; install onnxruntime-gpu (Linux, x86-64) instead of onnxruntime"
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            return f"the NVIDIA driver is not there ({error})"
        try:
            self.count()
        except DeviceError as error:
            return str(error)
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()  # Finds CUDA and cuDNN in NVIDIA's wheels, and prints what it does not find.
        return _missing_library("cuda", "CUDA")

    def count(self) -> int:
        """Number of visible GPUs; `CUDA_VISIBLE_DEVICES` hides others.

        Raises:
            DeviceError: There is none.
        """
        driver, number = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
        if (error := driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(number))) or not number.value:
            raise DeviceError(f"the NVIDIA driver finds no GPU (CUDA error {error})")
        return number.value

    def engine_threads(self, workers: int) -> int:
        """Four: one call is copied to the device, one computed, and one copied back, while one is made ready."""
        return 4

    def staging(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Pinned, so that a GPU reads and writes it without the processor's help."""
        array = super().staging(shape, dtype)
        size = max(1, array.nbytes)
        runtime = ctypes.CDLL(f"libcudart.so.{ort.cuda_version.partition('.')[0]}")
        address = ctypes.c_void_p(array.ctypes.data)
        if error := runtime.cudaHostRegister(address, ctypes.c_size_t(size), 0):
            raise DeviceError(f"{size:,} bytes cannot be pinned (CUDA error {error})")
        weakref.finalize(array, runtime.cudaHostUnregister, address)
        return array


class TensorRt(Cuda):
    """NVIDIA GPUs by TensorRT; ONNX Runtime has no option that turns its TF32 off."""

    name = "TensorrtExecutionProvider"
    precisions = ("tf32", "float16")
    captures = False

    def options(self, target: Target, *, capture: bool = False) -> list[tuple[str, dict[str, str]]]:
        """TensorRT, and CUDA for the operators that it lacks."""
        options = {"device_id": str(target.number), "trt_fp16_enable": str(target.precision == "float16")}
        if target.cache is not None:
            for name in ("engine", "timing"):
                options |= {f"trt_{name}_cache_enable": "True", f"trt_{name}_cache_path": str(target.cache)}
        return [(self.name, options), *super().options(target, capture=capture)]

    def problem(self) -> str | None:
        return super().problem() or _missing_library("tensorrt", "TensorRT")


PROVIDERS: dict[Kind, Provider] = {"cpu": Cpu(), "cuda": Cuda(), "tensorrt": TensorRt()}
"""The kinds of devices, by their names in `Kind`."""


def choose(device: Device) -> Kind:
    """Resolve `device` on this machine: `auto` is CUDA if it works, else the CPU.

    Raises:
        DeviceError: The device cannot be used; names the library that is missing.
    """
    kind: Kind = "cuda" if device == "auto" else device
    problem = PROVIDERS[kind].problem()
    if problem is None:
        return kind
    if device == "auto":
        return "cpu"
    raise DeviceError(f"device={device} cannot be used: {problem}")


def _missing_library(name: str, vendor: str) -> str | None:
    try:
        ctypes.CDLL(str(Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{name}.so"))
    except OSError as error:
        return f"a {vendor} library is not there ({error})"
    return None
