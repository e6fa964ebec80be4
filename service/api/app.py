"""The application: reads the models, wires the routes. Nothing happens at import."""

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.auth import is_loopback, read_keys, with_auth
from service.api.browsers import LOOPBACK_NAMES, BrowserMiddleware
from service.api.budget import LARGEST_ANSWERS, LARGEST_BODIES, MAX_ANSWER, ByteBudget
from service.api.openapi import complete_openapi, named, versioned
from service.api.problem_details import RequestMiddleware, answer_with_problems, refuse
from service.api.routes import decode, docs, elbo, encode, explorer, health, instances, metrics, model, sample, v2
from service.api.state import ServiceState
from service.bundle import TrustedKeys
from service.codecs.child import ChildProcess
from service.engine import PROVIDERS, EngineFactory, choose
from service.errors import ExtraError, NotFoundError, StorageError
from service.inference import Limits, Model, ModelLoader, ModelRegistry
from service.observability.metrics import Telemetry
from service.settings import Settings
from service.storage import BundleStore, LocalStore
from service.storage.cache import CachedStore

if TYPE_CHECKING:
    from service.observability.tracing import Spans

NAMED, VERSIONED = "/models/{name}", "/models/{name}/versions/{version}"
CHILD_MEMORY = 12
"""Memory of the process for large bodies, in multiples of `max_body`."""

LEAST_MEMORY = 2**28
"""Bytes that the process may take under a small `max_body`, too: an answer may be larger than its request."""

OPERATIONS = (elbo.OPERATION, encode.OPERATION, decode.OPERATION, sample.OPERATION, instances.OPERATION)

logger = logging.getLogger("service")


class _Application(FastAPI):
    """FastAPI behind a guard, but the operations on the models served go past its layers, by method and path."""

    state: ServiceState  # type: ignore[assignment]
    guarded: ASGIApp
    _registry: ModelRegistry | None = None
    _operations: Mapping[tuple[str, str], ASGIApp] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override]
        return self.guarded(scope, receive, send)

    def dispatch(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request that has passed the guard; HEAD as GET, of whose answer the server sends the head alone."""
        if scope["type"] != "http":
            return super().__call__(scope, receive, send)
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        if self.state.loader.registry is not self._registry:
            self._registry = self.state.loader.registry
            self._operations = dict(_operations(self._registry, self.state.telemetry, self.state.settings.timeout))
        operation = self._operations.get((scope["method"], scope["path"]))
        if operation is None:
            return super().__call__(scope, receive, send)
        scope["app"] = self
        return operation(scope, receive, send)


def create_app(settings: Settings) -> FastAPI:
    """The service as an ASGI application, all models read, verified and on their device.

    Raises:
        BundleError: A bundle must not be served.
        DeviceError: The device asked for cannot be used.
        ExtraError: Spans are wanted, or bundles from a URL, and the package for it is not installed.
        KeysError: The API keys, or those of who signs bundles, cannot be used.
        StorageError: The bundles cannot be reached.
    """
    on_loopback = is_loopback(settings.host)
    keys = read_keys(settings.api_keys_file)
    spans = _spans(settings.otlp_endpoint) if settings.otlp_endpoint else None
    telemetry = Telemetry(settings.workers)
    loader = _load(settings, telemetry)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if not keys and not on_loopback:
            logger.warning(
                "listening on %s without API keys: every client that reaches it may send requests", settings.host
            )
        loader.start()
        async with _following(loader, settings.poll), spans or contextlib.nullcontext():
            yield
        app.state.child.stop()
        await loader.stop()
        telemetry.flush()

    app = _Application(
        title="Lowerbound",
        summary="Encode, decode, sample, and score by the evidence lower bound.",
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url=None,  # See `docs`.
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    answered = partial(RequestMiddleware, timeout=settings.timeout, telemetry=telemetry)
    app.state = ServiceState(
        settings,
        ByteBudget(LARGEST_BODIES * settings.max_body, "bodies"),
        ByteBudget(LARGEST_ANSWERS * settings.max_body, "answers"),
        ChildProcess(max(LEAST_MEMORY, CHILD_MEMORY * settings.max_body)),
        loader,
        telemetry,
        answered(refuse),
    )
    _add_routes(app, with_explorer=settings.explorer)
    complete_openapi(app, closed=bool(keys))
    answer_with_problems(app)
    app.add_middleware(RequestMiddleware, timeout=settings.timeout, telemetry=telemetry)
    app.guarded = BrowserMiddleware(
        with_auth(app.dispatch, keys, settings.cors_origins, answered),
        settings.allowed_hosts or (LOOPBACK_NAMES if on_loopback else ("*",)),
        settings.cors_origins,
        answered,
    )
    if spans:
        app.guarded, app.state.refuse = spans.around(app.guarded), spans.around(app.state.refuse)
    return app


def _load(settings: Settings, telemetry: Telemetry) -> ModelLoader:
    """Read the models of the settings' bundles."""
    provider = PROVIDERS[choose(settings.device)]
    limits = Limits(
        max_batch=settings.max_batch or provider.max_batch,
        max_queue=settings.max_queue,
        max_draws=settings.max_draws,
        engine_threads=settings.engine_threads or provider.engine_threads(settings.workers),
        engine_timeout=settings.engine_timeout,
        max_answer=max(MAX_ANSWER, LARGEST_ANSWERS * settings.max_body),
    )
    factory = EngineFactory(
        device=settings.device,
        precision=settings.precision,
        max_batch=limits.max_batch,
        memory=settings.device_memory and settings.device_memory * 2**20,
        cache=settings.engine_cache,
    )
    trusted = TrustedKeys(settings.trusted_keys) if settings.trusted_keys else None
    storage = _storage(settings.models, settings.model_cache)
    return ModelLoader(storage, settings.default_model, factory, limits, trusted, telemetry.watch)


def _add_routes(app: FastAPI, *, with_explorer: bool) -> None:
    """Add every path, those of models under each prefix that names one."""
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
    app.include_router(docs.make_router())
    if with_explorer:
        app.include_router(explorer.make_router(), tags=["explorer"])
    app.include_router(v2.router, tags=["Open Inference Protocol"])


def _operations(
    registry: ModelRegistry, telemetry: Telemetry, timeout: float
) -> Iterator[tuple[tuple[str, str], ASGIApp]]:
    """By method and path, every operation on every model served."""
    for prefix, template, served in _addresses(registry):
        for operation in OPERATIONS:
            labels = telemetry.labels(operation.method, template + operation.path, served.manifest.name)
            app = RequestMiddleware(operation.on(served), timeout, telemetry, labels)
            yield (operation.method, prefix + operation.path), app


def _addresses(registry: ModelRegistry) -> Iterator[tuple[str, str, Model]]:
    """Every prefix that names a model, and its template; a model may have several."""
    with contextlib.suppress(NotFoundError):  # Several models, and none of them the default.
        yield "", "", registry.get()
    for name, versions in registry.names().items():
        yield f"/models/{name}", NAMED, registry.get(name)
        for version in versions:
            yield f"/models/{name}/versions/{version}", VERSIONED, registry.get(name, version)


def _storage(models: Path | str, cache: Path) -> BundleStore:
    """Open the store of bundles that the settings name."""
    if isinstance(models, Path):
        return LocalStore.at(models)
    try:
        return CachedStore(models, cache.expanduser())
    except RuntimeError as error:  # The user has no home directory, as in containers that run as any user.
        raise StorageError(f"{cache}: {error} Give another folder as --model-cache") from error


def _spans(endpoint: str) -> "Spans":
    """Make the exporter of requests' spans."""
    try:
        from service.observability.tracing import Spans  # noqa: PLC0415 - an optional package
    except ModuleNotFoundError as error:
        raise ExtraError(f"no spans can be sent to {endpoint}: pip install 'lowerbound[otlp]' ({error})") from error
    return Spans(endpoint)


@asynccontextmanager
async def _following(loader: ModelLoader, poll: float | None) -> AsyncIterator[None]:
    """Follow the repository's folder meanwhile, if that is wanted."""
    if poll is None:
        yield
        return
    asked = asyncio.Event()
    if threading.current_thread() is threading.main_thread():  # Others hear no signals.
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    following = asyncio.create_task(loader.follow(poll, asked))
    yield
    following.cancel()
