"""The repository: every model that this process serves, by name and version.

This module must not know about HTTP.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from service.bundle import Bundle, read_bundle, versions
from service.engine import Device, OnnxEngine
from service.errors import BundleError, NotFoundError
from service.model import Limits, Model, Observer, Unobserved

DEFAULT_REPOSITORY = Path(__file__).parent / "models"
"""The embedded default: one digits model, part of the package."""


class Repository:
    """The models of a folder `<name>/<version>/`, all versions loaded.

    Args:
        folder: The repository.
        default_model: The model that paths without a name mean; needed only where there are several.
        device: See `OnnxEngine`.
        limits: For each model.
        observe: Gives each model, by its bundle, what it tells of its doings.

    Raises:
        BundleError: There is no bundle, one is damaged, or its folder is not its name and version.
        DeviceError: The device cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        default_model: str | None,
        device: Device,
        limits: Limits,
        observe: Callable[[Bundle], Observer] = lambda _: Unobserved(),
    ) -> None:
        self._models: dict[str, dict[int, Model]] = {}
        for name, numbers in versions(folder).items():
            for version in numbers:
                bundle = read_bundle(folder / name / str(version))
                if (bundle.manifest.name, bundle.manifest.version) != (name, version):
                    raise BundleError(f"{folder / name / str(version)}: the manifest names another model or version")
                engine = OnnxEngine(bundle.manifest.graphs, bundle.files, device)
                self._models.setdefault(name, {})[version] = Model(bundle, engine, limits, observe(bundle))
        if not self._models:
            raise BundleError(f"{folder}: no bundle <name>/<version>/manifest.json in it")
        if default_model is not None and default_model not in self._models:
            raise BundleError(f"{folder}: no model {default_model!r}; there are {', '.join(self._models)}")
        self._default = next(iter(self._models)) if len(self._models) == 1 else default_model

    def __iter__(self) -> Iterator[Model]:
        """Every model, all versions."""
        return (model for by_version in self._models.values() for model in by_version.values())

    def names(self) -> dict[str, list[int]]:
        """The served versions of every model, oldest first."""
        return {name: sorted(by_version) for name, by_version in self._models.items()}

    def get(self, name: str | None = None, version: int | None = None) -> Model:
        """A model by name, or the default one; by version, or the latest.

        Raises:
            NotFoundError: There is no such model or version, or no default among several.
        """
        known = ", ".join(self._models)
        if name is None and self._default is None:
            raise NotFoundError(
                f"several models are served and none is the default; use /models/NAME/..., NAME one of {known}"
            )
        by_version = self._models.get(name or self._default or "")
        if by_version is None:
            raise NotFoundError(f"no model {name!r} is served; there are {known}")
        if version is not None and version not in by_version:
            numbers = ", ".join(map(str, sorted(by_version)))
            raise NotFoundError(f"{name} has no version {version}; there are {numbers}")
        return by_version[max(by_version) if version is None else version]
