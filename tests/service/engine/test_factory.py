"""Which engine a bundle gets: as exact as its golden rows demand, as fast as the user allows."""

from collections.abc import Mapping

import numpy as np
import pytest

from service.bundle import Array, Bundle
from service.engine import EngineFactory, OnnxEngine, Precision, golden_error
from service.engine.devices import Kind
from service.engine.factory import allowed_precisions, select_precision
from service.errors import DeviceError


class Coarse(OnnxEngine):
    """The CPU with fewer digits in what it is given."""

    def __init__(self, bundle: Bundle, bits: int) -> None:
        super().__init__(bundle.manifest.graphs, bundle.files, "cpu")
        self._lost = 23 - bits

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return super().run(graph, inputs | {"noise": self._rounded(inputs["noise"])})

    def _rounded(self, values: Array) -> Array:
        bits = values.view(np.uint32) >> np.uint32(self._lost) << np.uint32(self._lost)
        return bits.view(np.float32)


@pytest.mark.parametrize(
    ("kind", "precision", "expected"),
    [
        ("cuda", "float32", ["float32"]),
        ("cuda", "tf32", ["tf32", "float32"]),
        ("cuda", "float16", ["tf32", "float32"]),
        ("tensorrt", "tf32", ["tf32"]),
        ("tensorrt", "float16", ["float16", "tf32"]),
    ],
)
def test_the_lowest_that_is_allowed_is_tried_first(kind: Kind, precision: Precision, expected: list[Precision]) -> None:
    assert allowed_precisions(kind, precision) == expected


def test_what_a_device_cannot_is_refused() -> None:
    with pytest.raises(DeviceError, match="device=tensorrt cannot compute in float32, only in tf32, float16"):
        allowed_precisions("tensorrt", "float32")


@pytest.mark.parametrize(("bits", "serves"), [(22, "float16"), (3, "tf32")])
def test_the_golden_rows_choose_the_precision(digits_bundle: Bundle, bits: int, serves: Precision) -> None:
    mantissa = {"float16": bits, "tf32": 22, "float32": 23}
    made: list[Precision] = []

    def make(precision: Precision) -> Coarse:
        made.append(precision)
        return Coarse(digits_bundle, mantissa[precision])

    engine, refused = select_precision(["float16", "tf32", "float32"], make, digits_bundle)
    assert made[-1] == serves
    assert list(refused) == made[:-1]
    golden = {name: digits_bundle.golden["elbo"][name] for name in ("x", "noise")}
    assert golden_error(engine.run("elbo", golden), digits_bundle) <= 1
    for precision, error in refused.items():
        assert error == golden_error(Coarse(digits_bundle, mantissa[precision]).run("elbo", golden), digits_bundle) > 1


def test_the_last_precision_is_left_to_the_golden_check(digits_bundle: Bundle) -> None:
    engine, refused = select_precision(["tf32", "float32"], lambda _: Coarse(digits_bundle, 3), digits_bundle)
    assert list(refused) == ["tf32"]
    golden = {name: digits_bundle.golden["elbo"][name] for name in ("x", "noise")}
    assert golden_error(engine.run("elbo", golden), digits_bundle) > 1


def test_the_cpu_is_plain(digits_bundle: Bundle) -> None:
    engine = EngineFactory("cpu", precision="float16").engine(digits_bundle)
    assert type(engine) is OnnxEngine
    assert (engine.device, engine.precision, engine.refused) == ("cpu", "float32", {})
