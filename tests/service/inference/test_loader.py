"""The repository follows its folder: what is new and good is served, what is bad is refused, what is gone is freed."""

import asyncio
import gc
import io
import os
import shutil
import signal
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.api.app import create_app
from service.bundle import MANIFEST, Bundle
from service.engine import Engine, EngineFactory
from service.errors import NotFoundError, NotReadyError
from service.inference import Limits, ModelLoader
from service.settings import Settings
from service.storage import LocalStore
from tests.benchmarks import swap
from tests.conftest import Serve, process_of, wait_until
from tests.service.bundle_versions import DAMAGES, NAME, ROWS, answers, garble, make, publish, tamper
from tests.service.http_client import NPY, assert_problem, npy

until = partial(wait_until, seconds=30)

LIMITS = Limits(max_batch=64, max_queue=4096, max_draws=64, engine_threads=1, engine_timeout=30)
CPU = EngineFactory("cpu")
BODY = npy(ROWS[:3])
MISPLACED = f"the manifest is that of {NAME} 1; `lowerbound promote` makes a new version of it"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository of one version."""
    publish(tmp_path / "models", 1)
    return tmp_path / "models"


@pytest.fixture
def client(serve: Serve, folder: Path) -> Iterator[httpx.Client]:
    """Of a server that follows the folder."""
    with serve("--models", str(folder), "--poll", "0.05", "--engine-threads", "1") as following:
        yield following


def models(client: httpx.Client) -> Any:
    return client.get("/models").raise_for_status().json()


def elbo(client: httpx.Client, prefix: str = "") -> httpx.Response:
    return client.post(f"{prefix}/elbo", content=BODY, headers={"Content-Type": NPY, "Accept": NPY})


def assert_answered_by(answer: httpx.Response, bundle: Any) -> None:
    assert answer.status_code == 200, answer.text
    assert answer.headers["Lowerbound-Version"] == str(bundle.manifest.version)
    assert answer.headers["Lowerbound-Bundle"] == bundle.digest
    values = np.load(io.BytesIO(answer.content))["elbo"]
    np.testing.assert_array_equal(values, answers(bundle, ROWS[:3]))


def test_a_new_version_becomes_the_latest(client: httpx.Client, folder: Path) -> None:
    assert elbo(client).headers["Lowerbound-Version"] == "1"
    second = publish(folder, 2)
    until(lambda: models(client) == {"models": {NAME: [1, 2]}, "default": NAME, "refused": {}})
    for prefix in ("", f"/models/{NAME}", f"/models/{NAME}/versions/2"):
        assert_answered_by(elbo(client, prefix), second)
    assert elbo(client, f"/models/{NAME}/versions/1").headers["Lowerbound-Version"] == "1"
    metadata = client.get(f"/v2/models/{NAME}").json()
    assert metadata["versions"] == ["1", "2"]
    assert client.get("/model").json()["manifest"]["version"] == 2


def test_what_is_gone_is_served_no_more(client: httpx.Client, folder: Path) -> None:
    publish(folder, 2)
    until(lambda: elbo(client).headers["Lowerbound-Version"] == "2")
    shutil.rmtree(folder / NAME / "2")
    until(lambda: elbo(client).headers["Lowerbound-Version"] == "1")
    assert_problem(elbo(client, f"/models/{NAME}/versions/2"), 404, "no version 2; there are 1$", None)


def test_what_is_replaced_is_served_as_it_now_is(client: httpx.Client, folder: Path) -> None:
    before = elbo(client)
    shutil.rmtree(folder / NAME / "1")
    other = publish(folder, 1, made=100)
    until(lambda: elbo(client).headers.get("Lowerbound-Bundle") == other.digest)
    assert_answered_by(elbo(client), other)
    assert elbo(client).content != before.content


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_version_is_refused(client: httpx.Client, folder: Path, damage: Callable[[Path], str]) -> None:
    before = elbo(client)
    making = folder.parent / "models2"
    publish(making, 2)
    said = damage(making / NAME / "2")
    shutil.copytree(making / NAME / "2", folder / NAME / "2")
    until(lambda: models(client)["refused"])
    assert said in models(client)["refused"][NAME]["2"]
    assert str(folder) not in models(client)["refused"][NAME]["2"]
    assert models(client)["models"] == {NAME: [1]}
    assert elbo(client).content == before.content
    assert client.get("/health/ready").is_success
    shutil.rmtree(folder / NAME / "2")
    publish(folder, 2)  # Mended.
    until(lambda: models(client) == {"models": {NAME: [1, 2]}, "default": NAME, "refused": {}})


def test_what_is_damaged_while_it_serves_goes_on_as_it_was(client: httpx.Client, folder: Path) -> None:
    before = elbo(client)
    tamper(folder / NAME / "1")
    assert models(client)["refused"] == {}  # The manifest is the same, and what was verified is in memory.
    garble(folder / NAME / "1")
    until(lambda: "not a manifest" in models(client)["refused"].get(NAME, {}).get("1", ""))
    shutil.rmtree(folder)
    time.sleep(0.3)
    assert models(client)["models"] == {NAME: [1]}
    assert elbo(client).content == before.content


def test_each_state_is_refused_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(loader: ModelLoader) -> None:
        second = publish(folder, 2)
        garble(folder / NAME / "2")
        for _ in range(3):
            await loader.refresh()
        assert len(caplog.messages) == 1
        tamper(folder / NAME / "2")
        await loader.refresh()
        assert caplog.messages[1:] == [f"{NAME} 2 is refused: {loader.registry.refused[NAME]['2']}"]
        shutil.rmtree(folder / NAME / "2")
        await loader.refresh()
        assert loader.registry.refused == {}
        assert second.manifest.version not in loader.registry.names()[NAME]

    caplog.set_level("ERROR")
    with_repository(folder, scenario)


def test_a_bad_version_does_not_keep_the_good_from_starting(folder: Path) -> None:
    publish(folder, 2)
    garble(folder / NAME / "2")

    async def scenario(loader: ModelLoader) -> None:
        assert loader.registry.names() == {NAME: [1]}
        assert "not a manifest" in loader.registry.refused[NAME]["2"]

    with_repository(folder, scenario)


def test_not_all_of_very_many_are_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.inference.loader.MAX_REFUSED", 3)
    for version in (*range(2, 9), *(f"wrong{number}" for number in range(9))):
        (folder / NAME / str(version)).mkdir()
        (folder / NAME / str(version) / MANIFEST).write_text("{")
    publish(folder, 9)

    async def scenario(loader: ModelLoader) -> None:
        for _ in range(2):
            assert loader.registry.names() == {NAME: [1, 9]}
            assert [*loader.registry.refused[NAME]] == ["2", "3", "4", "wrong0", "wrong1", "wrong2"]
            await loader.refresh()

    with_repository(folder, scenario)


def test_the_folder_is_taken_out_of_texts_as_a_path_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m").symlink_to(folder)
    (folder / "other" / "1").mkdir(parents=True)
    shutil.copytree(folder / NAME / "1", folder / "other" / "1", dirs_exist_ok=True)

    async def scenario(loader: ModelLoader) -> None:
        assert loader.registry.refused == {"other": {"1": f"other/1: {MISPLACED}"}}

    for path in ("m", ".", tmp_path / "m"):
        monkeypatch.chdir(folder if path == "." else tmp_path)
        with_repository(Path(path), scenario)


def test_a_copied_version_is_told_how_versions_are_copied(folder: Path) -> None:
    shutil.copytree(folder / NAME / "1", folder / NAME / "2")

    async def scenario(loader: ModelLoader) -> None:
        assert loader.registry.names() == {NAME: [1]}
        assert loader.registry.refused == {NAME: {"2": f"{NAME}/2: {MISPLACED}"}}

    with_repository(folder, scenario)


def test_one_more_model_takes_the_default_away(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(loader: ModelLoader) -> None:
        other = make(folder.parent, 1, 5)
        shutil.copytree(folder / NAME / "1", folder / "other" / "1")
        await loader.refresh()
        assert loader.registry.refused == {"other": {"1": f"other/1: {MISPLACED}"}}
        assert loader.registry.default == NAME
        manifest = other.manifest.model_copy(update={"name": "other"})
        (folder / "other" / "1" / "manifest.json").write_text(manifest.model_dump_json())
        for name, data in other.files.items():
            (folder / "other" / "1" / name).write_bytes(data)
        await loader.refresh()
        assert loader.registry.names() == {NAME: [1], "other": [1]}
        with pytest.raises(NotFoundError, match="none is the default"):
            loader.registry.get()
        assert "no default among them" in caplog.text

    with_repository(folder, scenario)


def test_who_asks_has_a_refused_version_tried_again(folder: Path) -> None:
    failures = [MemoryError()]

    class Factory(EngineFactory):
        def engine(self, bundle: Bundle) -> Engine:
            if bundle.manifest.version == 2 and failures:
                raise failures.pop()
            return super().engine(bundle)

    async def scenario(loader: ModelLoader) -> None:
        publish(folder, 2)
        asked = asyncio.Event()
        following = asyncio.create_task(loader.follow(0, asked))
        await asyncio.to_thread(until, lambda: loader.registry.refused)
        await loader.refresh()
        assert loader.registry.refused == {NAME: {"2": "cannot be loaded: MemoryError"}}
        asked.set()
        await asyncio.to_thread(until, lambda: not loader.registry.refused)
        assert loader.registry.names() == {NAME: [1, 2]}
        following.cancel()

    with_repository(folder, scenario, Factory("cpu"))


def with_repository(
    folder: Path,
    scenario: Callable[[ModelLoader], Coroutine[Any, Any, None]],
    factory: EngineFactory = CPU,
) -> None:
    async def main() -> None:
        loader = ModelLoader(LocalStore(folder), None, factory, LIMITS)
        loader.start()
        try:
            await asyncio.wait_for(scenario(loader), 30)
        finally:
            await loader.stop()

    asyncio.run(main())


def test_what_is_replaced_answers_what_it_began(folder: Path) -> None:
    async def scenario(loader: ModelLoader) -> None:
        first = loader.registry.get()
        with first.in_use:
            before = await first.elbo(ROWS[:3])
            shutil.rmtree(folder / NAME / "1")
            publish(folder, 2)
            await loader.refresh()
            assert loader.registry.names() == {NAME: [2]}
            stopped, _ = await asyncio.wait(loader._leaving, timeout=0.2)
            assert not stopped
            after = await first.elbo(ROWS[:3])
            np.testing.assert_array_equal(before["elbo"], after["elbo"])
        await asyncio.gather(*loader._leaving)
        assert first.engine
        with pytest.raises(NotReadyError):
            await first.elbo(ROWS[:3])

    with_repository(folder, scenario)


def test_what_is_gone_is_freed(folder: Path) -> None:
    async def main() -> None:
        app = create_app(Settings(models=folder, engine_threads=1))
        loader: ModelLoader = app.state.loader
        model = loader.registry.get()
        traces = [weakref.ref(model), weakref.ref(model.engine), weakref.ref(model.bundle)]
        del model
        gc.collect()
        gc.freeze()  # As the service does: then nothing but its last use frees a model.
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            for _ in range(2):
                for prefix in ("", f"/models/{NAME}/versions/1"):
                    elbo = await client.post(f"{prefix}/elbo", content=BODY, headers={"Content-Type": NPY})
                    assert elbo.is_success
                for path in ("/sample", "/model", "/models", "/health/ready", f"/v2/models/{NAME}", "/v2/models/stats"):
                    assert (await client.get(path)).is_success, path
                infer = f"/v2/models/{NAME}/infer"
                refused = await client.post(infer, content=b"", headers={"Inference-Header-Content-Length": "9"})
                assert refused.is_client_error
            shutil.rmtree(folder / NAME / "1")
            publish(folder, 2)
            await loader.refresh()
            assert (await client.get("/sample")).headers["Lowerbound-Version"] == "2"
            await asyncio.gather(*loader._leaving)
            assert [trace() for trace in traces] == [None] * 3

    try:
        asyncio.run(main())
    finally:
        gc.unfreeze()


def test_a_signal_brings_the_look_forward(serve: Serve, folder: Path, tmp_path: Path) -> None:
    with serve("--models", str(folder), "--poll", "0") as client:
        publish(folder, 2)
        time.sleep(0.3)
        assert models(client)["models"] == {NAME: [1]}
        os.kill(process_of(client), signal.SIGHUP)
        until(lambda: models(client)["models"] == {NAME: [1, 2]})


@pytest.mark.slow
@pytest.mark.parametrize(("program", "good", "bad"), [("service", 12, 3), ("tests.service.accelerated_server", 4, 1)])
def test_swaps_under_load_lose_and_mix_nothing(tmp_path: Path, program: str, good: int, bad: int) -> None:
    counts = swap.run(tmp_path, swaps=good + bad, seconds=0, clients=4, program=(program,))
    assert counts.failed == []
    assert (counts.swaps, counts.refused) == (good, bad)
    assert len(counts.answered) >= counts.swaps
    assert sum(counts.answered.values()) > 100
