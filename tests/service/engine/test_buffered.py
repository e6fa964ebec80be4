"""The engine for accelerators on the CPU: plain ONNX Runtime's bits, in any batch, and when memory runs out."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from service.bundle import Array, Bundle
from service.engine import OnnxEngine, buffered, verify_golden
from service.engine.buffered import PASSING, BufferedEngine, batch_buckets
from service.engine.devices import Target
from service.errors import STATUS, DeviceMemoryError, NotReadyError
from service.inference import Limits, Model
from service.scoring import noise

MAX_BATCH = 64
CPU = Target("cpu")


@pytest.fixture(scope="module")
def plain(digits_bundle: Bundle) -> OnnxEngine:
    return OnnxEngine(digits_bundle.manifest.graphs, digits_bundle.files, "cpu")


@pytest.fixture(scope="module")
def engine(digits_bundle: Bundle) -> BufferedEngine:
    return new_engine(digits_bundle)


def new_engine(bundle: Bundle, max_batch: int = MAX_BATCH, *graphs: str) -> BufferedEngine:
    manifest = bundle.manifest
    chosen = {name: manifest.graphs[name] for name in graphs or manifest.graphs}
    return BufferedEngine(chosen, bundle.files, CPU, max_batch=max_batch, draws=manifest.num_draws)


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
    digits_bundle: Bundle, plain: OnnxEngine, engine: BufferedEngine, graph: str, rows: int, draws: int
) -> None:
    inputs = rows_of(digits_bundle, graph, rows, draws)
    assert_same(engine.run(graph, inputs), plain.run(graph, inputs))


def test_the_golden_rows_are_right(digits_bundle: Bundle, engine: BufferedEngine) -> None:
    verify_golden(engine, digits_bundle)


def test_batches_at_once_do_not_mix(digits_bundle: Bundle, plain: OnnxEngine, engine: BufferedEngine) -> None:
    cases = [rows_of(digits_bundle, "elbo", rows, draws) for rows in (1, 2, 3, 4, 7) for draws in (5, 16)] * 10
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda inputs: engine.run("elbo", inputs), cases))
    for inputs, answer in zip(cases, answers, strict=True):
        assert_same(answer, plain.run("elbo", inputs))


@pytest.mark.parametrize("top", [1, 2, 3, 4, 5, 32, 33])
def test_no_batch_is_computed_at_twice_its_size(top: int) -> None:
    buckets = batch_buckets(top)
    assert buckets == sorted(set(buckets))
    assert buckets[-1] == top
    for rows in range(1, top + 1):
        assert rows <= next(bucket for bucket in buckets if bucket >= rows) < 2 * rows


def test_what_rows_share_is_copied_once(digits_bundle: Bundle, plain: OnnxEngine) -> None:
    engine = new_engine(digits_bundle, MAX_BATCH, "elbo")
    inputs = rows_of(digits_bundle, "elbo", 2, 16)
    expected = plain.run("elbo", inputs)
    for _ in range(buffered.SETS):
        assert_same(engine.run("elbo", inputs), expected)
    inputs["noise"][:] = 0  # Nobody does so but who wants to know whether it is read again.
    for _ in range(buffered.SETS):
        assert_same(engine.run("elbo", inputs), expected)
    inputs["noise"] = inputs["noise"].copy()
    assert_same(engine.run("elbo", inputs), plain.run("elbo", inputs))


def test_pixels_stay_bytes_on_the_device(engine: BufferedEngine) -> None:
    for name in ("encoder", "elbo"):
        for bucket in engine._graphs[name]._lasting.values():
            assert bucket.get()._inputs["x"].data_type() == "tensor(uint8)"


def test_rungs_of_other_draws_are_given_up(digits_bundle: Bundle, plain: OnnxEngine) -> None:
    engine = new_engine(digits_bundle, MAX_BATCH, "elbo")
    graph = engine._graphs["elbo"]
    assert sorted(size.rows for size in graph._lasting) == [1, 2, 4]
    for draws in range(20, 20 + 2 * PASSING):
        engine.run("elbo", rows_of(digits_bundle, "elbo", 1, draws))
    assert [size.draws for size in graph._passing] == [*range(20 + PASSING, 20 + 2 * PASSING)]
    inputs = rows_of(digits_bundle, "elbo", 1, 20)
    assert_same(engine.run("elbo", inputs), plain.run("elbo", inputs))


def test_an_engine_that_is_dropped_takes_its_thread_along(digits_bundle: Bundle) -> None:
    before = set(threading.enumerate())
    engine = new_engine(digits_bundle, MAX_BATCH, "elbo")
    (thread,) = set(threading.enumerate()) - before
    engine.run("elbo", rows_of(digits_bundle, "elbo", 1, 16))
    traces = [weakref.ref(engine), weakref.ref(engine._graphs["elbo"]._session)]
    del engine
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
    assert [trace() for trace in traces] == [None, None]


# Out of memory, which is real: all sessions of these tests share an arena with a limit. The last test fills it.

LIMIT = 4 * 2**20


@pytest.fixture(scope="module")
def arena() -> None:
    """ONNX Runtime's arena that the process shares."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    same_as_requested = 1
    limits = {"max_mem": LIMIT, "arena_extend_strategy": same_as_requested}
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(limits))


@pytest.fixture
def cramped(arena: None, digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], BufferedEngine]:
    """What makes an engine whose sessions have not the memory for many rows."""

    def add_entry(options: ort.SessionOptions, *arguments: Any) -> None:
        options.add_session_config_entry("session.use_env_allocators", "1")
        add_initializers(options, *arguments)

    add_initializers = ort.SessionOptions.add_external_initializers_from_files_in_memory
    monkeypatch.setattr(ort.SessionOptions, "add_external_initializers_from_files_in_memory", add_entry)
    return lambda max_batch: new_engine(digits_bundle, max_batch, "elbo")


def test_a_row_without_memory_is_refused_and_the_next_is_answered(
    cramped: Callable[[int], BufferedEngine], digits_bundle: Bundle, plain: OnnxEngine
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
            await model.elbo(x[:1], num_draws=2**14)
        assert_same(await model.elbo(x), before)
        assert model.replaced_engines == 0
        await model.stop()

    asyncio.run(main())
    assert issubclass(DeviceMemoryError, NotReadyError)
    assert STATUS[NotReadyError] == 503


def test_rungs_without_memory_are_left_out(
    cramped: Callable[[int], BufferedEngine], digits_bundle: Bundle, plain: OnnxEngine
) -> None:
    engine = cramped(2**14)
    most = engine._graphs["elbo"]._max_batch
    assert 16 <= most < 2**14
    inputs = rows_of(digits_bundle, "elbo", 600, 16)
    assert_same(engine.run("elbo", inputs), plain.run("elbo", inputs))


def test_a_batch_without_memory_is_computed_in_parts(
    cramped: Callable[[int], BufferedEngine], digits_bundle: Bundle, plain: OnnxEngine
) -> None:
    engine = cramped(2**10)
    graph = engine._graphs["elbo"]
    assert graph._max_batch == 2**10
    inputs = rows_of(digits_bundle, "elbo", 64, 16)
    expected = plain.run("elbo", inputs)
    assert_same(engine.run("elbo", inputs), expected)
    hogs = []
    with pytest.raises(RuntimeError, match="smaller than requested bytes"):
        hogs.extend(graph._session.create_ortvalue_from_shape_and_type((2**14,), np.uint8, "cpu") for _ in range(LIMIT))
    del hogs[::2]
    with pytest.raises(Exception, match="smaller than requested bytes"):
        graph._compute(inputs, 0, 64, 16)
    assert_same(engine.run("elbo", inputs), expected)
    del hogs
    graph._compute(inputs, 0, 64, 16)
