"""The loader: models made of stored bundles. It can follow the storage as that changes.

A version is loaded beside the serving ones: tried in a process of its own, then read, verified, put on an engine and
tried on its golden rows. Only then is it in the registry. What it replaces leaves the registry in the same moment,
answers the requests that began with it, and is freed. A version that fails on the way is refused, and nothing else
changes.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from service.bundle import MANIFEST, MISNAMED, Bundle, TrustedKeys, read_bundle, read_digest
from service.engine import EngineFactory
from service.errors import BundleError, DeviceError, LowerboundError, NotReadyError, StorageError, printable
from service.inference.limits import Limits
from service.inference.model import Model
from service.inference.observer import Observer
from service.inference.registry import ModelRegistry
from service.inference.trial import Trial
from service.storage import DEFAULT_REPOSITORY, BundleRef, BundleStore, Fingerprint
from service.threads import in_thread

PATIENCE = 60.0
"""Seconds in which the bundles must be listed, or a small one loaded, while the service serves."""

SLOWEST = 2**20
"""Bytes of a bundle for which its download and loading have a second more."""

MAX_REASON = 1000
"""Characters of the reason for which a version is refused."""

MAX_REFUSED = 500
"""Versions, and folders that are none, that are listed as refused; each answer of `/models` has all of them."""

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
        observe: Callable[[Bundle], Observer] = Observer,
    ) -> None:
        self._storage = storage
        self._default_model = default_model
        self._factory = factory
        self._limits = limits
        self._trusted = trusted
        self._observe = observe
        self.registry = ModelRegistry({}, None)
        self._refusals: dict[BundleRef, _Refusal] = {}
        self._misnamed: list[tuple[str, str]] = []
        self._leaving: set[asyncio.Task[None]] = set()
        models: dict[BundleRef, Model] = {}
        failures: dict[BundleRef, tuple[Fingerprint, Exception]] = {}
        with contextlib.closing(Trial(limits.engine_timeout)) as trial:
            for ref, fingerprint in storage.list_bundles().items():
                try:
                    models[ref] = self._load(ref, fingerprint, trial)
                except DeviceError:
                    raise
                except Exception as error:  # Whatever is wrong with it, the others are to be served.
                    failures[ref] = fingerprint, error
        if not models:
            for ref, (_, failure) in failures.items():
                raise failure if isinstance(failure, LowerboundError) else BundleError(f"{ref}: {failure!r}")
            for name, folders in storage.misnamed().items():
                raise BundleError(f"{storage}: {name}/{folders[0]} {MISNAMED}")
            raise BundleError(f"{storage}: no bundle <name>/<version>/{MANIFEST} in it")
        for ref, (fingerprint, failure) in failures.items():
            self._refuse(ref, fingerprint, failure)
        self._refuse_misnamed(storage.misnamed())
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
            found, misnamed = await in_thread(self._look, PATIENCE)
        except (StorageError, TimeoutError) as error:
            reason = str(error) or f"{self._storage}: is not listed within {PATIENCE:.0f} seconds"
            logger.error("%s; what was read of it is still served", reason)  # noqa: TRY400 - no traceback
            return
        if not found:
            logger.error("%s: no bundle in it any more; what was read of it is still served", self._storage)
            return
        self._refuse_misnamed(misnamed)
        served = {BundleRef(model.manifest.name, model.manifest.version): model for model in self.registry}
        self._refusals = {ref: refusal for ref, refusal in self._refusals.items() if ref in found}
        with contextlib.closing(Trial(self._limits.engine_timeout)) as trial:
            for ref, fingerprint in found.items():
                if ref in served and served[ref].bundle.digest == fingerprint.digest:
                    self._refusals.pop(ref, None)
                elif ref not in self._refusals or self._refusals[ref].fingerprint != fingerprint:
                    await self._take(ref, fingerprint, served, trial)
        gone = served.keys() - found.keys()
        if len(gone) == len(served):
            logger.error("%s: no bundle in it can be served; what was read of it before is still served", self._storage)
            gone = set()
        leaving = [served.pop(ref) for ref in gone]
        self._publish(served)
        self._let_go(leaving)

    def _look(self) -> tuple[dict[BundleRef, Fingerprint], Mapping[str, Sequence[str]]]:
        return self._storage.list_bundles(), self._storage.misnamed()

    async def _take(
        self, ref: BundleRef, fingerprint: Fingerprint, served: dict[BundleRef, Model], trial: Trial
    ) -> None:
        """Serve a new version, or refuse it."""
        seconds = PATIENCE + self._limits.engine_timeout + fingerprint.size / SLOWEST
        try:
            model = await in_thread(partial(self._load, ref, fingerprint, trial), seconds)
        except TimeoutError:
            trial.close()  # Its thread may still be in it.
            self._refuse(ref, fingerprint, NotReadyError(f"{ref}: is not loaded within {seconds:.0f} seconds"))
        except Exception as error:  # Memory, files or a device may be wanting; what serves must go on.
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
        if isinstance(error, LowerboundError):
            reason = self._without_folder(str(error))
        else:
            reason = f"cannot be loaded: {type(error).__name__}"
            logger.error("%s cannot be loaded", _printable(str(ref)), exc_info=error)
        again = isinstance(error, StorageError | NotReadyError)
        refusal = _Refusal(None if again else fingerprint, _printable(reason))
        if self._refusals.get(ref) != refusal:
            logger.error("%s is refused: %s", _printable(str(ref)), refusal.reason)
        self._refusals[ref] = refusal

    def _refuse_misnamed(self, found: Mapping[str, Sequence[str]]) -> None:
        misnamed = [(name, folder) for name, folders in found.items() for folder in folders][:MAX_REFUSED]
        for name, folder in {*misnamed} - {*self._misnamed}:
            logger.error("%s/%s %s", _printable(name), _printable(folder), MISNAMED)
        self._misnamed = misnamed

    def _without_folder(self, text: str) -> str:
        folder = self._storage.folder
        for path in (folder.absolute(), folder):  # A relative one may be as short as a letter, or a word.
            text = re.sub(rf"(?<![\w./-]){re.escape(str(path))}/", "", text)
        return text.replace(str(folder.absolute()), "the folder of bundles")

    def _publish(self, models: Mapping[BundleRef, Model]) -> None:
        by_name: dict[str, dict[int, Model]] = {}
        for ref in sorted(models):
            by_name.setdefault(ref.name, {})[ref.version] = models[ref]
        refused: dict[str, dict[str, str]] = {}
        for ref in sorted(self._refusals)[:MAX_REFUSED]:
            refused.setdefault(_printable(ref.name), {})[str(ref.version)] = self._refusals[ref].reason
        for name, folder in self._misnamed:
            refused.setdefault(_printable(name), {})[_printable(folder)] = MISNAMED
        default = next(iter(by_name)) if len(by_name) == 1 else self._default_model
        if self.registry.default and default is None:
            logger.warning("several models and no default among them: paths that name none are refused from now on")
        registry = ModelRegistry(by_name, default, refused)
        if registry != self.registry:
            self.registry = registry

    def _start(self, model: Model) -> None:
        model.start()
        logger.info("serving %s on %s", model.manifest.title, model.engine.device)

    def _let_go(self, models: Iterable[Model]) -> None:
        """Stop models that are out of the registry, once the requests that began with them are answered."""

        async def leave(model: Model) -> None:
            await model.in_use.ended()
            await model.stop()
            logger.info("%s of %s is gone", model.manifest.title, model.bundle.digest[:12])

        for model in models:
            task = asyncio.create_task(leave(model))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def _load(self, ref: BundleRef, fingerprint: Fingerprint, trial: Trial) -> Model:
        folder = self._storage.fetch(ref, self._trusted)
        digest = read_digest(folder, self._trusted)
        if self._storage.folder != DEFAULT_REPOSITORY:  # Which is part of the package, like its code.
            trial.check(folder, digest, fingerprint.size)
        bundle = read_bundle(folder, self._trusted, digest)
        ref.check(bundle.manifest, folder)
        return Model(bundle, self._factory.engine, self._limits, self._observe)


def _printable(text: str) -> str:
    """A text from a bundle or its folder for logs and answers: not too long, and without what steers a terminal."""
    return printable(text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…")
