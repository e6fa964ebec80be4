"""Storage: where bundles lie. Here: in a folder `<name>/<version>/` of this machine; see `storage.cache` for URLs.

This module must not know about HTTP, or what becomes of the bundles.
"""

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol, Self

from pydantic import BeforeValidator

from service.bundle import MANIFEST, Manifest, versions, write_bundle

DEFAULT_REPOSITORY = Path(__file__).parents[1] / "models"
"""The embedded default: one digits model, part of the package."""


def _locate(value: object) -> object:
    """A URL as it is; of what has no scheme, the path."""
    return Path(value) if isinstance(value, str) and "://" not in value else value


Location = Annotated[Path | str, BeforeValidator(_locate)]
"""A path of this machine, or a URL of a file system that fsspec knows."""


class BundleRef(NamedTuple):
    """Where a bundle lies."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Fingerprint:
    """What a bundle looks like from outside.

    Attributes:
        digest: The manifest's SHA-256.
        files: Every file's name, size in bytes, and something that is another whenever the file is.
    """

    digest: str
    files: frozenset[tuple[str, int, str]]


class BundleStore(Protocol):
    """Bundles by name and version.

    Attributes:
        folder: Where this machine has them.
    """

    folder: Path

    def list_bundles(self) -> dict[BundleRef, Fingerprint]:
        """The complete bundles, those of a name from the oldest version to the latest.

        Raises:
            StorageError: They cannot be reached now.
        """

    def fetch(self, ref: BundleRef) -> Path:
        """The folder of a bundle that was there at the last look.

        Raises:
            BundleError: What is there is not what its manifest says.
            StorageError: It cannot be reached now.
        """


class LocalStore:
    """A folder of this machine.

    Args:
        folder: With bundles in `<name>/<version>/`; there are none where it cannot be read.
        name: Of the only model to see, if not all.
        version: Of its only version to see, if not all.
    """

    def __init__(self, folder: Path, name: str | None = None, version: str | None = None) -> None:
        self.folder = folder
        self._name = name
        self._version = version

    @classmethod
    def at(cls, path: Path) -> Self:
        """The folder of a repository; or of one model or one version within it, of which no other is seen."""
        here = path.resolve()
        if (here / MANIFEST).is_file():
            return cls(here.parents[1], here.parent.name, here.name)
        if versions(here.parent).get(here.name) and not versions(here):
            return cls(here.parent, here.name)
        return cls(path)

    def __str__(self) -> str:
        return str(self.folder.joinpath(*filter(None, (self._name, self._version))))

    def list_bundles(self) -> dict[BundleRef, Fingerprint]:
        found: dict[BundleRef, Fingerprint] = {}
        for name, numbers in versions(self.folder).items():
            for version in numbers:
                if self._name not in {None, name} or self._version not in {None, str(version)}:
                    continue
                folder = self.folder / name / str(version)
                with contextlib.suppress(FileNotFoundError):  # Gone since.
                    files = {file: file.stat() for file in folder.rglob("*")}
                    found[BundleRef(name, version)] = Fingerprint(
                        hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest(),
                        frozenset((str(file), seen.st_size, str(seen.st_mtime_ns)) for file, seen in files.items()),
                    )
        return found

    def fetch(self, ref: BundleRef) -> Path:
        return self.folder / ref.name / str(ref.version)

    def taken(self, name: str) -> list[int]:
        """The versions of a model of which anything is there, complete or not."""
        return sorted(int(path.name) for path in (self.folder / name).glob("*") if path.name.isdecimal())

    def try_to_write(self, name: str) -> None:
        """Raise an `OSError` where no bundle of this name could be written."""
        (self.folder / name).mkdir(parents=True, exist_ok=True)

    def write(self, manifest: Manifest, files: Mapping[str, bytes]) -> Path:
        """See `write_bundle`."""
        return write_bundle(self.folder, manifest, files)
