"""Options of ONNX Runtime for a device: names that it knows, and TF32 only where it is wanted."""

import mmap
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from service.engine import Precision
from service.engine.devices import PROVIDERS, Kind, Target, choose

LIBRARIES = {
    provider: Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{name}.so"
    for provider, name in (("CUDAExecutionProvider", "cuda"), ("TensorrtExecutionProvider", "tensorrt"))
}


@pytest.mark.skipif(not all(map(Path.exists, LIBRARIES.values())), reason="this ONNX Runtime is built without CUDA")
@pytest.mark.parametrize("precision", PROVIDERS["tensorrt"].precisions)
def test_the_providers_have_every_option(precision: Precision) -> None:
    target = Target("tensorrt", 1, precision, 2**30, Path("cache"))
    providers = target.provider.options(target, capture=True)
    assert [name for name, _ in providers] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    for name, options in providers:
        with LIBRARIES[name].open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library:
            assert [option for option in options if library.find(f"{option}\0".encode()) < 0] == []
            assert library.find(b"trt_no_such_option\0") < 0


@pytest.mark.parametrize("kind", ["cuda", "tensorrt"])
def test_less_than_float32_is_only_where_it_is_asked_for(kind: Kind) -> None:
    for precision in PROVIDERS[kind].precisions:
        options = dict(PROVIDERS[kind].options(Target(kind, precision=precision)))
        assert options["CUDAExecutionProvider"]["use_tf32"] == str(int(precision != "float32"))
        if kind == "tensorrt":
            assert options["TensorrtExecutionProvider"]["trt_fp16_enable"] == str(precision == "float16")


def test_memory_is_limited_where_that_is_asked_for() -> None:
    cuda = PROVIDERS["cuda"]
    options = [dict(cuda.options(Target("cuda", memory=memory)))[cuda.name] for memory in (None, 2**30)]
    assert [option.get("gpu_mem_limit") for option in options] == [None, str(2**30)]


def test_the_cpu_is_one_device_that_is_always_there() -> None:
    assert choose("cpu") == "cpu"
    assert PROVIDERS["cpu"].count() == 1
    assert PROVIDERS["cpu"].options(Target("cpu")) == [("CPUExecutionProvider", {})]


def test_a_device_that_does_not_accelerate_has_nothing_to_choose() -> None:
    """Its engine has the first precision and the first device."""
    for kind, provider in PROVIDERS.items():
        assert provider.accelerates or (len(provider.precisions), provider.count()) == (1, 1), kind


def test_staging_is_of_zeros_on_pages_of_its_own() -> None:
    first, second = (PROVIDERS["cpu"].staging((3, 5), np.float32) for _ in range(2))
    assert not first.any()
    assert first.ctypes.data % mmap.PAGESIZE == second.ctypes.data % mmap.PAGESIZE == 0
    first[:] = 1
    assert first.flags.c_contiguous
    assert not second.any()
