"""The engine for accelerators on the CPU: plain ONNX Runtime's bits, in any batch, and when memory runs out."""

import asyncio
import gc
import mmap
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from service.bundle import Array, Bundle
from service.engine import OnnxEngine, verify_golden
from service.engine.accelerated import AcceleratedEngine, _Runs
from service.engine.devices import PROVIDERS, Target
from service.engine.engine import open_session
from service.engine.pinned import SMALLEST, PinnedMemory
from service.engine.replay import Replay
from service.errors import STATUS, DeviceMemoryError, NotReadyError
from service.inference import Limits, Model
from service.scoring import ElboQuery, noise
from tests.conftest import wait_until

MAX_BATCH = 64
CPU = Target("cpu")


@pytest.fixture(scope="module")
def plain(digits_bundle: Bundle) -> OnnxEngine:
    return OnnxEngine(digits_bundle.manifest.graphs, digits_bundle.files, "cpu")


@pytest.fixture(scope="module")
def engine(digits_bundle: Bundle) -> AcceleratedEngine:
    return new_engine(digits_bundle)


def new_engine(bundle: Bundle, max_batch: int = MAX_BATCH, *graphs: str) -> AcceleratedEngine:
    manifest = bundle.manifest
    chosen = {name: manifest.graphs[name] for name in graphs or manifest.graphs}
    return AcceleratedEngine(chosen, bundle.files, CPU, max_batch=max_batch, draws=manifest.num_draws)


def rows_of(bundle: Bundle, graph: str, rows: int, draws: int) -> dict[str, Array]:
    """Golden rows of a graph, over and over, in another order, under other draws."""
    order = np.random.default_rng(rows).integers(0, 4, rows)
    inputs = {t.name: bundle.golden[graph][t.name] for t in bundle.manifest.graphs[graph].inputs}
    return {
        name: noise.base_samples(draws, draws, bundle.manifest.latent_size) if name == "noise" else array[order]
        for name, array in inputs.items()
    }


def assert_same(answer: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert answer.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(answer[name], values, err_msg=name)
        assert answer[name].dtype == values.dtype


@pytest.mark.parametrize("graph", ["encoder", "decoder", "elbo", "explain", "draw", "refine", "scores"])
@pytest.mark.parametrize(("rows", "draws"), [(1, 16), (3, 16), (4, 16), (5, 16), (11, 7), (70, 2), (2, 100)])
def test_every_batch_has_the_bits_of_plain_onnx_runtime(
    digits_bundle: Bundle, plain: OnnxEngine, engine: AcceleratedEngine, graph: str, rows: int, draws: int
) -> None:
    inputs = rows_of(digits_bundle, graph, rows, draws)
    assert_same(engine.run(graph, inputs), plain.run(graph, inputs))


def test_the_golden_rows_are_right(digits_bundle: Bundle, engine: AcceleratedEngine) -> None:
    verify_golden(engine, digits_bundle)


def test_batches_at_once_do_not_mix(digits_bundle: Bundle, plain: OnnxEngine, engine: AcceleratedEngine) -> None:
    cases = [rows_of(digits_bundle, "elbo", rows, draws) for rows in (1, 2, 3, 4, 7) for draws in (5, 16)] * 10
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda inputs: engine.run("elbo", inputs), cases))
    for inputs, answer in zip(cases, answers, strict=True):
        assert_same(answer, plain.run("elbo", inputs))


def test_an_answer_stays_while_any_part_of_it_is_kept(digits_bundle: Bundle, plain: OnnxEngine) -> None:
    engine = new_engine(digits_bundle, MAX_BATCH, "elbo")
    cases = [rows_of(digits_bundle, "elbo", rows, 16) for rows in (1, 2, 3, 4, 5) * 4]
    parts = [engine.run("elbo", inputs)["elbo"][-1:] for inputs in cases]
    for inputs, part in zip(cases, parts, strict=True):
        np.testing.assert_array_equal(part, plain.run("elbo", inputs)["elbo"][-1:])


# Pinned memory


def test_a_block_is_used_again_once_no_view_of_it_is_left() -> None:
    memory = PinnedMemory(PROVIDERS["cpu"])
    array = memory.array((3, 5), np.float32)
    address, view = array.ctypes.data, array[1:].reshape(-1)[2:]
    del array
    assert memory.array((3, 5), np.float32).ctypes.data != address
    del view
    assert memory.array((2, 7), np.float64).ctypes.data == address


def test_answers_beyond_the_limit_lie_in_ordinary_memory() -> None:
    memory = PinnedMemory(PROVIDERS["cpu"], 2 * SMALLEST)
    held = [memory.array((SMALLEST,), np.uint8) for _ in range(3)]
    assert [array.ctypes.data % mmap.PAGESIZE == 0 and array.base is not None for array in held] == [True, True, False]


@pytest.mark.parametrize("shape", [(0, 5), ()])
def test_an_array_may_have_no_or_one_element(shape: tuple[int, ...]) -> None:
    assert PinnedMemory(PROVIDERS["cpu"]).array(shape, np.float32).shape == shape


# Captured graphs: a session of the CPU computes what one of a GPU would replay.


@pytest.fixture(scope="module")
def replay(digits_bundle: Bundle) -> Replay:
    graph = digits_bundle.manifest.graphs["elbo"]
    return Replay(open_session(digits_bundle.files, "elbo", graph, CPU), graph, CPU, 16, MAX_BATCH)


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_a_replayed_batch_has_the_bits_of_plain_onnx_runtime(
    digits_bundle: Bundle, plain: OnnxEngine, replay: Replay, rows: int
) -> None:
    for seed in range(3):
        inputs = rows_of(digits_bundle, "elbo", rows, 16) | {"x": rows_of(digits_bundle, "elbo", rows + seed, 16)["x"]}
        inputs["x"] = inputs["x"][:rows]
        assert replay.takes(inputs)
        assert_same(replay.run(inputs), plain.run("elbo", inputs))


@pytest.mark.parametrize(("rows", "draws"), [(5, 16), (1, 15), (1, 17)])
def test_other_batches_are_not_replayed(digits_bundle: Bundle, replay: Replay, rows: int, draws: int) -> None:
    assert not replay.takes(rows_of(digits_bundle, "elbo", rows, draws))


def test_what_rows_share_is_copied_once(digits_bundle: Bundle, plain: OnnxEngine, replay: Replay) -> None:
    inputs = rows_of(digits_bundle, "elbo", 2, 16)
    expected = plain.run("elbo", inputs)
    assert_same(replay.run(inputs), expected)
    inputs["noise"][:] = 0  # Nobody does so but who wants to know whether it is read again.
    assert_same(replay.run(inputs), expected)
    inputs["noise"] = inputs["noise"].copy()
    assert_same(replay.run(inputs), plain.run("elbo", inputs))


def test_a_replay_that_is_dropped_takes_its_thread_along(digits_bundle: Bundle) -> None:
    before = set(threading.enumerate())
    graph = digits_bundle.manifest.graphs["elbo"]
    replay = Replay(open_session(digits_bundle.files, "elbo", graph, CPU), graph, CPU, 16, MAX_BATCH)
    (thread,) = set(threading.enumerate()) - before
    replay.run(rows_of(digits_bundle, "elbo", 1, 16))
    trace = weakref.ref(replay)
    del replay
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
    assert trace() is None


def test_a_capture_that_fails_leaves_the_graph_as_it_is(
    digits_bundle: Bundle, plain: OnnxEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")

    monkeypatch.setattr(type(CPU.provider), "captures", True)
    monkeypatch.setattr("service.engine.replay._Batch.compute", fail)
    engine = new_engine(digits_bundle, MAX_BATCH, "elbo")
    assert "elbo.onnx: its capture failed, it is computed without: CUDA failure 900" in caplog.text
    inputs = rows_of(digits_bundle, "elbo", 2, 16)
    assert_same(engine.run("elbo", inputs), plain.run("elbo", inputs))


def test_no_call_is_beside_a_capture() -> None:
    runs, seen, beside = _Runs(), [], threading.Barrier(2)

    def call(number: int) -> None:
        with runs.beside_others():
            seen.append(f"begins {number}")
            if number < 2:
                beside.wait(10)  # Both are under way at once.
                time.sleep(0.1)
            seen.append(f"ends {number}")

    def capture() -> None:
        with runs.alone():
            seen.append("captured")
            time.sleep(0.1)
            seen.append("free")

    with ThreadPoolExecutor(4) as pool:
        first = [pool.submit(call, number) for number in (0, 1)]
        wait_until(lambda: len(seen) == 2, 10)
        captured = pool.submit(capture)
        wait_until(lambda: runs._captures, 10)
        last = pool.submit(call, 2)
        for future in (*first, captured, last):
            future.result(10)
    assert {event.split()[0] for event in seen[:2]} == {"begins"}
    assert {event.split()[0] for event in seen[2:4]} == {"ends"}
    assert seen[4:] == ["captured", "free", "begins 2", "ends 2"]


# Out of memory, which is real: all sessions of these tests share an arena with a limit. The last test fills it.

LIMIT = 64 * 2**20

HOG = 2**19
"""Bytes that hold the largest array of one row, of all components of the prior."""


@pytest.fixture(scope="module")
def arena() -> None:
    """ONNX Runtime's arena that the process shares."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    same_as_requested = 1
    limits = {"max_mem": LIMIT, "arena_extend_strategy": same_as_requested}
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(limits))


@pytest.fixture
def cramped(arena: None, digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AcceleratedEngine]:
    """What makes an engine whose sessions have not the memory for many rows."""

    def add_entry(options: ort.SessionOptions, *arguments: Any) -> None:
        options.add_session_config_entry("session.use_env_allocators", "1")
        add_initializers(options, *arguments)

    add_initializers = ort.SessionOptions.add_external_initializers_from_files_in_memory
    monkeypatch.setattr(ort.SessionOptions, "add_external_initializers_from_files_in_memory", add_entry)
    return lambda max_batch: new_engine(digits_bundle, max_batch, "elbo")


def test_a_row_without_memory_is_refused_and_the_next_is_answered(
    cramped: Callable[[int], AcceleratedEngine], digits_bundle: Bundle, plain: OnnxEngine
) -> None:
    whole = new_engine(digits_bundle)
    whole._graphs |= cramped(2**10)._graphs
    limits = Limits(max_batch=2**10, max_queue=2**18, max_draws=2**14, engine_threads=2, engine_timeout=30)
    x = digits_bundle.golden["elbo"]["x"]

    async def main() -> None:
        model = Model(digits_bundle, lambda _: whole, limits)
        model.start()
        before = await model.elbo(x)
        with pytest.raises(DeviceMemoryError, match="ask for fewer draws"):
            await model.elbo(x[:1], ElboQuery(num_draws=2**14))
        assert_same(await model.elbo(x), before)
        assert model.replaced_engines == 0
        await model.stop()

    asyncio.run(main())
    assert issubclass(DeviceMemoryError, NotReadyError)
    assert STATUS[NotReadyError] == 503


def test_a_batch_without_memory_is_computed_in_parts(
    cramped: Callable[[int], AcceleratedEngine], digits_bundle: Bundle, plain: OnnxEngine
) -> None:
    engine = cramped(2**14)  # The largest batch that is to be expected does not fit either.
    graph = engine._graphs["elbo"]
    inputs = rows_of(digits_bundle, "elbo", 64, 16)
    expected = plain.run("elbo", inputs)
    assert_same(engine.run("elbo", inputs), expected)
    hogs = []
    with pytest.raises(RuntimeError, match="smaller than requested bytes"):
        hogs.extend(
            graph._session.create_ortvalue_from_shape_and_type((HOG,), np.uint8, "cpu") for _ in range(LIMIT // HOG + 1)
        )
    del hogs[::2]
    with pytest.raises(Exception, match="smaller than requested bytes"):
        graph._compute(inputs)
    assert_same(engine.run("elbo", inputs), expected)
    del hogs
    graph._compute(inputs)
