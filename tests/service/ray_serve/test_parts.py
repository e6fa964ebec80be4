"""The parts of the deployment that need no cluster: how many replicas, which id, whether a replica is healthy."""

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema
from starlette.types import Receive, Scope, Send

from service.engine import EngineFactory
from service.errors import NotReadyError
from service.inference import Limits, ModelLoader
from service.ray_serve.autoscaling import ROW_DRAWS, RowDraws
from service.ray_serve.deployment import SERVERS_OWN, Replica, build
from service.ray_serve.request_ids import OneRequestId
from service.settings import Settings
from service.storage import DEFAULT_REPOSITORY, LocalStore
from tests.service.faulty_engine import FaultyEngine
from tests.service.ray_serve.machines import FOLDER


@pytest.mark.parametrize(
    ("reported", "wanted"),
    [({}, 0), ({"a": 0.0, "b": 0.0}, 0), ({"a": 1.0}, 1), ({"a": 900.0, "b": 100.0}, 1), ({"a": 900.0, "b": 101.0}, 2)],
)
def test_replicas_follow_the_rows(reported: dict[str, float], wanted: int) -> None:
    context: Any = SimpleNamespace(aggregated_metrics={ROW_DRAWS: reported} if reported else None)
    assert RowDraws(1000)(context) == (wanted, {})


def test_the_config_file_is_one() -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load((FOLDER / "serve.yaml").read_text()))
    (application,) = config.applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    (deployment,) = application.deployments
    policy = deployment.autoscaling_config["policy"]
    assert policy["policy_function"] == f"{RowDraws.__module__}:{RowDraws.__name__}"
    assert RowDraws(**policy["policy_kwargs"])
    build(Settings(**application.args))


def test_every_setting_is_either_ours_or_the_servers() -> None:
    assert Settings.model_fields.keys() > SERVERS_OWN
    for name in SERVERS_OWN:
        with pytest.raises(ValueError, match=f"{name}: of no effect"):
            build(Settings(**{name: 7 if name != "host" else "0.0.0.0"}))  # type: ignore[arg-type]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers as the application within what Ray Serve puts around it: with the id that came, twice."""
    given = [header for header in scope["headers"] if header[0] == b"x-request-id"]
    headers = [(b"a", b"b"), *given, (b"X-Request-ID", given[0][1])]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body"})


@pytest.mark.parametrize(("given", "kept"), [("mine", True), ("a b", False), (None, False)])
def test_one_safe_id_is_echoed(given: str | None, kept: bool) -> None:
    async def send_request() -> httpx.Response:
        transport = httpx.ASGITransport(OneRequestId(echo))
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            return await client.get("/", headers={} if given is None else {"X-Request-ID": given})

    answer = asyncio.run(send_request())
    (found,) = answer.headers.get_list("x-request-id")
    assert (found == given) is kept
    assert len(found) == (4 if kept else 32)
    assert answer.headers["a"] == "b"


def test_a_replica_is_as_healthy_as_its_engines() -> None:
    limits = Limits(max_batch=512, max_queue=1 << 18, max_draws=4096, engine_threads=1, engine_timeout=10)
    loader = ModelLoader(LocalStore(DEFAULT_REPOSITORY), None, EngineFactory("cpu", "float32", 512), limits)
    replica = Replica.__new__(Replica)
    replica._loader = loader

    async def check() -> None:
        loader.start()
        await replica.check_health()
        assert await replica.record_autoscaling_stats() == {ROW_DRAWS: 0}
        (model,) = loader.registry
        model._batcher.engine = engine = FaultyEngine(model.bundle, "wrong")
        with pytest.raises(NotReadyError, match="golden"):
            await replica.check_health()
        assert await model._watchdog.has_replaced(engine)
        await replica.check_health()
        await loader.stop()

    asyncio.run(check())
