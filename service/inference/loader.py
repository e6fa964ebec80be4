"""The repository: stored bundles, and the models made of them. It can follow the storage as that changes.

A version is loaded beside those that serve: read, verified, put on an engine, tried on its golden rows. Only then is it
in the catalogue; what it replaces leaves the catalogue in the same moment, answers the requests that began with it, and
is freed. A version that fails on the way is refused, and nothing else changes.

This module must not know about HTTP.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from service.bundle import MANIFEST, Bundle, TrustedKeys, read_bundle
from service.engine import Engine, Placement
from service.errors import BundleError, LowerboundError, StorageError
from service.inference.model import Limits, Model, Observer, Unobserved
from service.inference.registry import Catalogue
from service.storage import Address, State, Storage
from service.threads import in_thread

logger = logging.getLogger("service")


@dataclass(frozen=True)
class _Refusal:
    state: State | None
    """None where it is to be tried again as it is."""
    reason: str


class Repository:
    """The models of stored bundles, all versions loaded.

    Args:
        storage: Where the bundles are.
        default_model: The model that paths without a name mean; needed only where there are several.
        placement: Makes the engines.
        limits: For each model.
        trusted: See `read_bundle`.
        observe: See `Model`.

    Attributes:
        catalogue: What is served now.

    Raises:
        BundleError: Of all bundles none can be served, or none is the default model's.
        DeviceError: The device cannot be used.
        StorageError: The bundles cannot be reached.
    """

    def __init__(
        self,
        storage: Storage,
        default_model: str | None,
        placement: Placement,
        limits: Limits,
        trusted: TrustedKeys | None = None,
        observe: Callable[[Bundle], Observer] = Unobserved,
    ) -> None:
        self._storage = storage
        self._default_model = default_model
        self._placement = placement
        self._limits = limits
        self._trusted = trusted
        self._observe = observe
        self.catalogue = Catalogue({}, None)
        self._refusals: dict[Address, _Refusal] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        models: dict[Address, Model] = {}
        failures: dict[Address, tuple[State, LowerboundError]] = {}
        for address, state in storage.look().items():
            try:
                models[address] = self._load(address)
            except (BundleError, StorageError) as error:
                failures[address] = state, error
        if not models:
            absent = BundleError(f"{storage}: no bundle <name>/<version>/{MANIFEST} in it")
            raise next((failure for _, failure in failures.values()), absent)
        for address, (state, failure) in failures.items():
            self._refuse(address, state, failure)
        self._publish(models)
        if default_model is not None and default_model not in self.catalogue.models:
            known = ", ".join(self.catalogue.models)
            raise BundleError(f"{storage}: no model {default_model!r}; there are {known}")

    def start(self) -> None:
        """Begin to compute; called on the loop that requests come in on."""
        for model in self.catalogue:
            self._start(model)

    async def stop(self) -> None:
        """Stop every model, those that are leaving included."""
        await asyncio.gather(*(model.stop() for model in self.catalogue), *self._leaving)

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
            found = await in_thread(self._storage.look)
        except StorageError as error:
            logger.error("%s; what was read of it is still served", error)  # noqa: TRY400 - no traceback
            return
        if not found:
            logger.error("%s: no bundle in it any more; what was read of it is still served", self._storage)
            return
        served = {Address(model.manifest.name, model.manifest.version): model for model in self.catalogue}
        self._refusals = {address: refusal for address, refusal in self._refusals.items() if address in found}
        for address, state in found.items():
            if address in served and served[address].bundle.digest == state.digest:
                self._refusals.pop(address, None)
            elif address not in self._refusals or self._refusals[address].state != state:
                await self._take(address, state, served)
        gone = [served.pop(address) for address in served.keys() - found.keys()]
        self._publish(served)
        self._let_go(gone)

    async def _take(self, address: Address, state: State, served: dict[Address, Model]) -> None:
        """Serve a new version, or refuse it."""
        try:
            model = await in_thread(partial(self._load, address))
        except Exception as error:  # Memory, files or a device may be wanting; what serves must go on.
            if not isinstance(error, LowerboundError):
                logger.exception("%s cannot be loaded", address)
            self._refuse(address, state, error)
        else:
            self._refusals.pop(address, None)
            self._start(model)
            replaced = served.get(address)
            served[address] = model
            self._publish(served)
            self._let_go([replaced] if replaced else [])

    def _refuse(self, address: Address, state: State, error: Exception) -> None:
        """Say why a version is not served: in the log, and to whoever asks, without where on this machine it lies."""
        reason = str(error).replace(f"{self._storage.folder}/", "") or type(error).__name__
        refusal = _Refusal(None if isinstance(error, StorageError) else state, reason)
        if self._refusals.get(address) != refusal:
            logger.error("%s is refused: %s", address, reason)
        self._refusals[address] = refusal

    def _publish(self, models: Mapping[Address, Model]) -> None:
        by_name: dict[str, dict[int, Model]] = {}
        for address in sorted(models):
            by_name.setdefault(address.name, {})[address.version] = models[address]
        refused: dict[str, dict[int, str]] = {}
        for address in sorted(self._refusals):
            refused.setdefault(address.name, {})[address.version] = self._refusals[address].reason
        default = next(iter(by_name)) if len(by_name) == 1 else self._default_model
        if self.catalogue.default and default is None:
            logger.warning("several models and no default among them: paths that name none are refused from now on")
        catalogue = Catalogue(by_name, default, refused)
        if catalogue != self.catalogue:
            self.catalogue = catalogue

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

    def _load(self, address: Address) -> Model:
        folder = self._storage.fetch(address)
        bundle = read_bundle(folder, self._trusted)
        if (bundle.manifest.name, bundle.manifest.version) != address:
            raise BundleError(f"{folder}: the manifest names another model or version")
        return Model(bundle, partial(_make_engine, self._placement), self._limits, self._observe)


def _make_engine(placement: Placement, bundle: Bundle) -> Engine:
    return placement.engine(bundle)
