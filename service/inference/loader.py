"""The repository: stored bundles, and the models made of them. It can follow the storage as that changes.

A version is loaded beside the serving ones: read, verified, put on an engine, tried on its golden rows. Only then is it
in the catalogue; what it replaces leaves the catalogue in the same moment, answers the requests that began with it, and
is freed. A version that fails on the way is refused, and nothing else changes.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from service.bundle import MANIFEST, Bundle, TrustedKeys, read_bundle
from service.engine import Engine, EngineFactory
from service.errors import BundleError, LowerboundError, StorageError
from service.inference.limits import Limits
from service.inference.model import Model
from service.inference.observer import Observer, Unobserved
from service.inference.registry import ModelRegistry
from service.storage import BundleRef, BundleStore, Fingerprint
from service.threads import in_thread

logger = logging.getLogger("service")


@dataclass(frozen=True)
class _Refusal:
    fingerprint: Fingerprint | None
    """None where it is to be tried again as it is."""
    reason: str


class ModelLoader:
    """The models of stored bundles, all versions loaded.

    Args:
        storage: Where the bundles are.
        default_model: The model that paths without a name mean; needed only where there are several.
        factory: Makes the engines.
        limits: For each model.
        trusted: See `read_bundle`.
        observe: See `Model`.

    Attributes:
        registry: What is served now.

    Raises:
        BundleError: Of all bundles none can be served, or none is the default model's.
        DeviceError: The device cannot be used.
        StorageError: The bundles cannot be reached.
    """

    def __init__(
        self,
        storage: BundleStore,
        default_model: str | None,
        factory: EngineFactory,
        limits: Limits,
        trusted: TrustedKeys | None = None,
        observe: Callable[[Bundle], Observer] = Unobserved,
    ) -> None:
        self._storage = storage
        self._default_model = default_model
        self._factory = factory
        self._limits = limits
        self._trusted = trusted
        self._observe = observe
        self.registry = ModelRegistry({}, None)
        self._refusals: dict[BundleRef, _Refusal] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        models: dict[BundleRef, Model] = {}
        failures: dict[BundleRef, tuple[Fingerprint, LowerboundError]] = {}
        for ref, fingerprint in storage.list_bundles().items():
            try:
                models[ref] = self._load(ref)
            except (BundleError, StorageError) as error:
                failures[ref] = fingerprint, error
        if not models:
            absent = BundleError(f"{storage}: no bundle <name>/<version>/{MANIFEST} in it")
            raise next((failure for _, failure in failures.values()), absent)
        for ref, (fingerprint, failure) in failures.items():
            self._refuse(ref, fingerprint, failure)
        self._publish(models)
        if default_model is not None and default_model not in self.registry.models:
            known = ", ".join(self.registry.models)
            raise BundleError(f"{storage}: no model {default_model!r}; there are {known}")

    def start(self) -> None:
        """Begin to compute; called on the loop that requests come in on."""
        for model in self.registry:
            self._start(model)

    async def stop(self) -> None:
        """Stop every model, also the leaving ones."""
        await asyncio.gather(*(model.stop() for model in self.registry), *self._leaving)

    async def follow(self, seconds: float, asked: asyncio.Event) -> None:
        """Look at the storage now, every so many seconds (0: never by itself), and when asked, until cancelled."""
        while True:
            try:
                await self.refresh()
            except Exception:
                logger.exception("%s: cannot be followed", self._storage)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds or None):
                    await asked.wait()
            if asked.is_set():
                asked.clear()
                self._refusals.clear()  # Who asks may have mended what cannot be seen from outside.

    async def refresh(self) -> None:
        """Serve what is stored now. Loading takes place beside the event loop."""
        try:
            found = await in_thread(self._storage.list_bundles)
        except StorageError as error:
            logger.error("%s; what was read of it is still served", error)  # noqa: TRY400 - no traceback
            return
        if not found:
            logger.error("%s: no bundle in it any more; what was read of it is still served", self._storage)
            return
        served = {BundleRef(model.manifest.name, model.manifest.version): model for model in self.registry}
        self._refusals = {ref: refusal for ref, refusal in self._refusals.items() if ref in found}
        for ref, fingerprint in found.items():
            if ref in served and served[ref].bundle.digest == fingerprint.digest:
                self._refusals.pop(ref, None)
            elif ref not in self._refusals or self._refusals[ref].fingerprint != fingerprint:
                await self._take(ref, fingerprint, served)
        gone = [served.pop(ref) for ref in served.keys() - found.keys()]
        self._publish(served)
        self._let_go(gone)

    async def _take(self, ref: BundleRef, fingerprint: Fingerprint, served: dict[BundleRef, Model]) -> None:
        """Serve a new version, or refuse it."""
        try:
            model = await in_thread(partial(self._load, ref))
        except Exception as error:  # Memory, files or a device may be wanting; what serves must go on.
            if not isinstance(error, LowerboundError):
                logger.exception("%s cannot be loaded", ref)
            self._refuse(ref, fingerprint, error)
        else:
            self._refusals.pop(ref, None)
            self._start(model)
            replaced = served.get(ref)
            served[ref] = model
            self._publish(served)
            self._let_go([replaced] if replaced else [])

    def _refuse(self, ref: BundleRef, fingerprint: Fingerprint, error: Exception) -> None:
        """Record why a version is not served: in the log, and for `/models`, without its path on this machine."""
        reason = str(error).replace(f"{self._storage.folder}/", "") or type(error).__name__
        refusal = _Refusal(None if isinstance(error, StorageError) else fingerprint, reason)
        if self._refusals.get(ref) != refusal:
            logger.error("%s is refused: %s", ref, reason)
        self._refusals[ref] = refusal

    def _publish(self, models: Mapping[BundleRef, Model]) -> None:
        by_name: dict[str, dict[int, Model]] = {}
        for ref in sorted(models):
            by_name.setdefault(ref.name, {})[ref.version] = models[ref]
        refused: dict[str, dict[int, str]] = {}
        for ref in sorted(self._refusals):
            refused.setdefault(ref.name, {})[ref.version] = self._refusals[ref].reason
        default = next(iter(by_name)) if len(by_name) == 1 else self._default_model
        if self.registry.default and default is None:
            logger.warning("several models and no default among them: paths that name none are refused from now on")
        registry = ModelRegistry(by_name, default, refused)
        if registry != self.registry:
            self.registry = registry

    def _start(self, model: Model) -> None:
        model.start()
        logger.info("serving %s %d on %s", model.manifest.name, model.manifest.version, model.engine.device)

    def _let_go(self, models: Iterable[Model]) -> None:
        """Stop models that are out of the catalogue, once the requests that began with them are answered."""

        async def leave(model: Model) -> None:
            await model.drain()
            await model.stop()
            logger.info("%s %d of %s is gone", model.manifest.name, model.manifest.version, model.bundle.digest[:12])

        for model in models:
            task = asyncio.create_task(leave(model))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def _load(self, ref: BundleRef) -> Model:
        folder = self._storage.fetch(ref)
        bundle = read_bundle(folder, self._trusted)
        if (bundle.manifest.name, bundle.manifest.version) != ref:
            raise BundleError(f"{folder}: the manifest names another model or version")
        return Model(bundle, partial(_make_engine, self._factory), self._limits, self._observe)


def _make_engine(factory: EngineFactory, bundle: Bundle) -> Engine:
    return factory.engine(bundle)
