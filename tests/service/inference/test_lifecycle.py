"""Versions that come, go, change and break in any order, beside requests: only what is whole answers, to the bit."""

import asyncio
import hashlib
import io
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from service.api.app import create_app
from service.bundle import MANIFEST, write_bundle
from service.settings import Settings
from tests.service.bundle_versions import DAMAGES, NAME, ROWS, answers, make
from tests.service.http_client import NPY, npy

VERSIONS, CONTENTS = (1, 2, 3), (0, 7)
BODY = npy(ROWS[:3])

pytestmark = pytest.mark.slow


class Lifecycle(RuleBasedStateMachine):
    """A folder of versions, and what the service must make of it.

    Attributes:
        stored: By version the digest of its manifest, and whether it is whole.
        served: By version the digest that must be served.
    """

    made: Path
    right: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp()) / "models"
        self.stored: dict[int, tuple[str, bool]] = {}
        self.served: dict[int, str] = {}
        self.loop, self.stack = asyncio.Runner(), AsyncExitStack()

    @initialize(version=st.sampled_from(VERSIONS), content=st.sampled_from(CONTENTS))
    def begin(self, version: int, content: int) -> None:
        self.put(version, content)
        self.app = create_app(Settings(models=self.folder, device="cpu", engine_threads=1))
        self.served = {version: self.stored[version][0]}
        self.loop.run(self.stack.enter_async_context(self.app.router.lifespan_context(self.app)))
        transport = httpx.ASGITransport(self.app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://localhost")

    @rule(version=st.sampled_from(VERSIONS), content=st.sampled_from(CONTENTS))
    def put(self, version: int, content: int) -> None:
        target = self.folder / NAME / str(version)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.made / str(content) / NAME / str(version), target)
        self.stored[version] = digest(target), True

    @rule(version=st.sampled_from(VERSIONS), damage=st.sampled_from(DAMAGES))
    def damage(self, version: int, damage: Any) -> None:
        if self.stored.get(version, ("", False))[1]:
            target = self.folder / NAME / str(version)
            damage(target)
            self.stored[version] = digest(target), False

    @rule(version=st.sampled_from(VERSIONS))
    def remove(self, version: int) -> None:
        shutil.rmtree(self.folder / NAME / str(version), ignore_errors=True)
        self.stored.pop(version, None)

    @rule()
    def refresh(self) -> None:
        """Look at the folder, and ask meanwhile."""
        before = self.served
        whole = {version: found for version, (found, good) in self.stored.items() if good}
        kept = {version: found for version, found in before.items() if version in self.stored} | whole
        self.served = kept if self.stored and kept else before
        seen = self.loop.run(self._ask_until_refreshed())
        assert seen <= {*before.values(), *self.served.values()}
        wrong = [version for version, (found, good) in self.stored.items() if not good and before.get(version) != found]
        if self.stored:
            assert sorted(self.listed()["refused"].get(NAME, {})) == sorted(map(str, wrong))

    @invariant()
    def what_is_served_answers(self) -> None:
        if not self.served:
            return
        assert self.listed()["models"] == {NAME: sorted(self.served)}
        for version in VERSIONS:
            answer = self.loop.run(self._ask(f"/models/{NAME}/versions/{version}"))
            assert answer == self.served.get(version)
        assert self.loop.run(self._ask("")) == self.served[max(self.served)]

    def listed(self) -> Any:
        return self.loop.run(self.client.get("/models")).json()

    def teardown(self) -> None:
        self.loop.run(self.stack.aclose())
        self.loop.close()
        shutil.rmtree(self.folder.parent)

    async def _ask(self, prefix: str) -> str | None:
        """The digest of the bundle that answers, as it must; None where there is none."""
        answer = await self.client.post(f"{prefix}/elbo", content=BODY, headers={"Content-Type": NPY, "Accept": NPY})
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, answer.text
        found = answer.headers["Lowerbound-Bundle"]
        np.testing.assert_array_equal(np.load(io.BytesIO(answer.content))["elbo"], self.right[found])
        return found

    async def _ask_until_refreshed(self) -> set[str]:
        refreshing, seen = asyncio.create_task(self.app.state.loader.refresh()), set()
        while not refreshing.done():
            seen.add(await self._ask(""))
            await asyncio.sleep(0.01)
        await refreshing
        return {one for one in seen if one is not None}


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def test_only_whole_versions_answer(tmp_path: Path) -> None:
    Lifecycle.made, Lifecycle.right = tmp_path, {}
    for content in CONTENTS:
        for version in VERSIONS:
            bundle = make(tmp_path, version, version + content)
            write_bundle(tmp_path / str(content), bundle.manifest, bundle.files)
            found = digest(tmp_path / str(content) / NAME / str(version))
            Lifecycle.right[found] = answers(bundle, ROWS[:3])
    machine = Lifecycle.TestCase()
    machine.settings = settings(
        max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
    )
    machine.runTest()
