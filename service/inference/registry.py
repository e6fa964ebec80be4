"""The registry: what is served at one moment. It never changes; another takes its place."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from service.errors import NotFoundError
from service.inference.model import Model


@dataclass(frozen=True)
class ModelRegistry:
    """Models by name and version, sorted.

    Attributes:
        models: What is served.
        default: The model that paths without a name mean, if any.
        refused: Why versions that are there are not served as they are, by the names of their folders.
    """

    models: Mapping[str, Mapping[int, Model]]
    default: str | None
    refused: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Model]:
        """Every model, all versions."""
        return (model for by_version in self.models.values() for model in by_version.values())

    async def check(self) -> None:
        """Compute every model's golden rows now, at the cost of one small engine call each.

        Raises:
            NotReadyError: An engine's answer is not the bundle's, or does not come in time.
        """
        await asyncio.gather(*(model.check() for model in self))

    def names(self) -> dict[str, list[int]]:
        """The served versions of every model, oldest first."""
        return {name: list(by_version) for name, by_version in self.models.items()}

    def get(self, name: str | None = None, version: int | None = None) -> Model:
        """A model by name, or the default one; by version, or the latest.

        Raises:
            NotFoundError: There is no such model or version, or no default among several.
        """
        known = ", ".join(self.models)
        if name is None and self.default is None:
            raise NotFoundError(
                f"several models are served and none is the default; use /models/NAME/..., NAME one of {known}"
            )
        name = name or self.default or ""
        by_version = self.models.get(name)
        if by_version is None:
            raise NotFoundError(f"no model {name!r} is served; there are {known}")
        if version is not None and version not in by_version:
            numbers = ", ".join(map(str, by_version))
            raise NotFoundError(f"{name} has no version {version}; there are {numbers}")
        return by_version[max(by_version) if version is None else version]
