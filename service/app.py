"""The application: reads the models, wires the routes. Nothing happens at import."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import guard, is_loopback, read_keys
from service.errors import NotFoundError
from service.model import Limits, Model
from service.problems import Envelope, answer_with_problems
from service.repository import Repository
from service.routes import decode, docs, elbo, encode, health, model, sample, v2
from service.routes.description import complete_openapi, named, versioned
from service.settings import Settings
from service.signature import TrustedKeys

OPERATIONS = (elbo.OPERATION, encode.OPERATION, decode.OPERATION, sample.OPERATION)

logger = logging.getLogger("service")


class _Application(FastAPI):
    """FastAPI behind a guard, but requests that `direct` knows, by method and path, go past its layers."""

    guarded: ASGIApp
    direct: Mapping[tuple[str, str], ASGIApp] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.guarded(scope, receive, send)

    async def dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that has passed the guard."""
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
        KeysError: The API keys, or those of who signs bundles, cannot be used.
    """
    keys = read_keys(settings.api_keys_file)
    limits = Limits(settings.max_batch, settings.max_queue, settings.max_draws, settings.lanes)
    trusted = TrustedKeys(settings.trusted_keys) if settings.trusted_keys else None
    repository = Repository(settings.models, settings.default_model, settings.device, limits, trusted)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for served in repository:
            served.start()
            logger.info("serving %s %d on %s", served.manifest.name, served.manifest.version, served.engine.device)
        if not keys and not is_loopback(settings.host):
            logger.warning("listening on %s without API keys: whoever reaches it may ask", settings.host)
        yield
        await asyncio.gather(*(served.stop() for served in repository))

    app = _Application(
        title="Lowerbound",
        summary="Encode, decode, sample, and score by the evidence lower bound.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # See `docs`.
        redoc_url=None,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.state.settings = settings
    app.state.repository = repository
    app.state.statistics = {}
    app.state.draining = False
    named_model, versioned_model = [Depends(named)], [Depends(named), Depends(versioned)]
    for prefix, dependencies, tag in (
        ("", [], "default model"),
        ("/models/{name}", named_model, "by name"),
        ("/models/{name}/versions/{version}", versioned_model, "by version"),
    ):
        for operation in OPERATIONS:
            app.router.routes.append(operation.route(prefix, dependencies, tag))
        app.include_router(model.router, prefix=prefix, dependencies=dependencies, tags=[tag])
    app.include_router(model.index, tags=["repository"])
    app.include_router(health.router, tags=["health"])
    app.include_router(docs.router)
    app.include_router(v2.router, tags=["Open Inference Protocol"])
    complete_openapi(app, closed=bool(keys))
    answer_with_problems(app)
    app.add_middleware(Envelope, timeout=settings.timeout)
    app.direct = {
        (operation.method, prefix + operation.path): Envelope(operation.on(served), settings.timeout)
        for prefix, served in _addresses(repository)
        for operation in OPERATIONS
    }
    app.guarded = guard(app.dispatch, keys, settings.cors_origins, settings.timeout)
    return app


def _addresses(repository: Repository) -> Iterator[tuple[str, Model]]:
    """Every prefix that names a model; a model may have several."""
    with contextlib.suppress(NotFoundError):  # Several models, and none of them the default.
        yield "", repository.get()
    for name, versions in repository.names().items():
        yield f"/models/{name}", repository.get(name)
        for version in versions:
            yield f"/models/{name}/versions/{version}", repository.get(name, version)
