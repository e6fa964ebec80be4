"""The application: reads the models, wires the routes. Nothing happens at import."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import NotFoundError
from service.model import Limits, Model
from service.problems import Envelope, answer_with_problems
from service.repository import Repository
from service.routes import decode, elbo, encode, health, metrics, model, sample, v2
from service.routes.description import complete_openapi, named, versioned
from service.settings import Settings
from service.telemetry import Telemetry

NAMED, VERSIONED = "/models/{name}", "/models/{name}/versions/{version}"
OPERATIONS = (elbo.OPERATION, encode.OPERATION, decode.OPERATION, sample.OPERATION)

logger = logging.getLogger("service")


class _Application(FastAPI):
    """FastAPI, but requests that `direct` knows, by method and path, go past its layers."""

    direct: Mapping[tuple[str, str], ASGIApp] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.direct.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if app is None:
            await super().__call__(scope, receive, send)
        else:
            scope["app"] = self
            await app(scope, receive, send)


def create_app(settings: Settings) -> FastAPI:
    """The service as an ASGI application, all models read, verified and on their device.

    Raises:
        BundleError: A bundle must not be served.
        DeviceError: The device asked for cannot be used.
    """
    limits = Limits(settings.max_batch, settings.max_queue, settings.max_draws, settings.lanes)
    telemetry = Telemetry(settings.workers)
    repository = Repository(settings.models, settings.default_model, settings.device, limits, telemetry.watch)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for served in repository:
            served.start()
            logger.info("serving %s %d on %s", served.manifest.name, served.manifest.version, served.engine.device)
        yield
        await asyncio.gather(*(served.stop() for served in repository))
        telemetry.flush()

    app = _Application(
        title="Lowerbound",
        summary="Encode, decode, sample, and score by the evidence lower bound.",
        lifespan=lifespan,
        redirect_slashes=False,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.state.settings = settings
    app.state.repository = repository
    app.state.statistics = {}
    app.state.draining = False
    app.state.telemetry = telemetry
    named_model, versioned_model = [Depends(named)], [Depends(named), Depends(versioned)]
    for prefix, dependencies, tag in (
        ("", [], "default model"),
        (NAMED, named_model, "by name"),
        (VERSIONED, versioned_model, "by version"),
    ):
        for operation in OPERATIONS:
            app.router.routes.append(operation.route(prefix, dependencies, tag))
        app.include_router(model.router, prefix=prefix, dependencies=dependencies, tags=[tag])
    app.include_router(model.index, tags=["repository"])
    app.include_router(health.router, tags=["health"])
    app.include_router(metrics.router, tags=["telemetry"])
    app.include_router(v2.router, tags=["Open Inference Protocol"])
    complete_openapi(app)
    answer_with_problems(app)
    app.add_middleware(Envelope, timeout=settings.timeout, telemetry=telemetry)
    app.direct = {
        (operation.method, prefix + operation.path): Envelope(
            operation.on(served),
            settings.timeout,
            telemetry,
            telemetry.labels(operation.method, route + operation.path, served.manifest.name),
        )
        for prefix, route, served in _addresses(repository)
        for operation in OPERATIONS
    }
    return app


def _addresses(repository: Repository) -> Iterator[tuple[str, str, Model]]:
    """Every prefix that names a model, and its template; a model may have several."""
    with contextlib.suppress(NotFoundError):  # Several models, and none of them the default.
        yield "", "", repository.get()
    for name, versions in repository.names().items():
        yield f"/models/{name}", NAMED, repository.get(name)
        for version in versions:
            yield f"/models/{name}/versions/{version}", VERSIONED, repository.get(name, version)
