"""Several engines as one: the least busy one gets the next batch, and none is forgotten."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.bundle import Array, Bundle
from service.engine import golden_error
from service.engine.multi_device import MultiDeviceEngine
from tests.conftest import wait_until
from tests.service.faulty_engine import FaultyEngine


class Device:
    """An engine that answers which it is, when it may."""

    device = "cpu"
    precision = "float32"

    def __init__(self, number: int) -> None:
        self.number = number
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.begun.release()
        assert self.may_end.acquire(timeout=30)
        if graph == "fail":
            raise ValueError("no such graph")
        return {"number": np.array([self.number])}


def rows(number: int) -> dict[str, Array]:
    return {"x": np.zeros((number, 2))}


def test_the_least_loaded_is_next() -> None:
    devices = [Device(number) for number in range(3)]
    engine = MultiDeviceEngine(devices, {})
    with ThreadPoolExecutor(8) as pool:

        def begin(size: int, expected: int, graph: str = "any") -> None:
            pool.submit(engine.run, graph, rows(size))
            assert devices[expected].begun.acquire(timeout=30)

        begin(5, 0)
        begin(2, 1)
        begin(1, 2)  # 5, 2 and 1 rows are under way.
        begin(2, 2)
        begin(2, 1)  # 5, 4 and 3.
        begin(1, 2)  # 5, 4 and 4.
        begin(3, 1)  # 5, 7 and 4: of equals, the one that has waited longest.
        begin(1, 2)
        devices[0].may_end.release()
        wait_until(lambda: not engine._loads[devices[0]], 30)
        begin(1, 0)
        for device in devices:
            device.may_end.release(10)
    assert list(engine._loads.values()) == [0, 0, 0]


def test_a_failure_leaves_no_load() -> None:
    devices = [Device(number) for number in range(2)]
    engine = MultiDeviceEngine(devices, {})
    for device in devices:
        device.may_end.release(10)
    for _ in range(3):
        with pytest.raises(ValueError, match="no such graph"):
            engine.run("fail", rows(5))
    assert list(engine._loads.values()) == [0, 0]


def test_golden_rows_come_to_every_engine_in_turn(digits_bundle: Bundle) -> None:
    engines = [FaultyEngine(digits_bundle), FaultyEngine(digits_bundle, "wrong"), FaultyEngine(digits_bundle)]
    engine = MultiDeviceEngine(engines, {})
    golden = {name: digits_bundle.golden["elbo"][name] for name in ("x", "noise")}
    errors = [golden_error(engine.run("elbo", golden), digits_bundle) for _ in range(6)]
    assert [error > 1 for error in errors] == [False, True, False] * 2
