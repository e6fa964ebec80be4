"""The deployment: the application on Ray Serve, as it is, once in each replica.

Ray decides where replicas run, how many there are, and which one gets a request; it replaces lost ones. The application
alone reads requests, admits them and computes their batches.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.app import create_app
from service.inference import ModelLoader
from service.observability import logs
from service.ray_serve.autoscaling import ROW_DRAWS
from service.ray_serve.metrics import export
from service.server import tune_process
from service.settings import Settings

SERVERS_OWN = {"host", "port", "workers", "read_timeout", "max_connections", "graceful_shutdown_timeout"}
"""The settings of `service.server`, in whose place Ray Serve stands."""


def build(settings: Settings) -> serve.Application:
    """Make the application for `import_path` of a Serve config file; its `args` are fields of the settings.

    Raises:
        ValueError: Some would have no effect.
    """
    given = settings.model_dump(exclude_unset=True)
    if idle := SERVERS_OWN & given.keys():
        raise ValueError(f"{', '.join(sorted(idle))}: of no effect on Ray Serve, whose config file has its own")
    application: serve.Application = DEPLOYMENT.bind(given)
    return application


class Replica:
    """One process that serves. Ray Serve calls all of this on the application's event loop.

    Args:
        given: Fields of the settings; those not given are read from this process's environment.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        cpus = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))
        # Ray's proxy listens, on an address that the settings do not know.
        self._settings = Settings(**{"engine_threads": max(1, cpus), "host": "0.0.0.0", **given})  # noqa: S104

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """Read the models; a bundle that must not be served ends the replica here."""
        settings = self._settings
        logs.configure(settings.log_level, settings.log_format, every_request=settings.access_log)
        app = create_app(settings)
        self._loader: ModelLoader = app.state.loader
        self._exporting = asyncio.create_task(export(app.state.telemetry, self._loader))
        tune_process()
        return _unprefixed(app)

    async def check_health(self) -> None:
        """Have the golden rows answered by the engines that serve. A replica that fails is replaced.

        Raises:
            NotReadyError: An engine's answer is not the bundle's, or does not come in time.
        """
        await self._loader.registry.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """The queued row-draws of this replica, for the policy."""
        return {ROW_DRAWS: sum(model.admitted for model in self._loader.registry)}


DEPLOYMENT: serve.Deployment = serve.deployment(
    name="lowerbound",
    max_ongoing_requests=1000,  # The application's queue counts rows, and fills batches with what waits in it.
    health_check_period_s=5,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=60,
)(serve.ingress()(Replica))
"""Defaults that a config file may change."""


def _unprefixed(app: FastAPI) -> ASGIApp:
    """The application under the prefix that Ray Serve has given it, of which it need not know."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if prefix := scope.get("root_path"):
            scope = {**scope, "path": scope["path"].removeprefix(prefix) or "/", "root_path": ""}
        await app(scope, receive, send)

    return call
