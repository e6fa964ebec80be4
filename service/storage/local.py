"""Storage: where bundles lie. Here: in a folder `<name>/<version>/` of this machine; see `storage.cache` for URLs."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol, Self

from pydantic import BeforeValidator

from service.bundle import (
    MANIFEST,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    BundleFolder,
    Manifest,
    TrustedKeys,
    misnamed,
    versions,
    write_bundle,
)
from service.errors import BundleError

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

    @property
    def path(self) -> str:
        """Its folder within the repository."""
        return f"{self.name}/{self.version}"

    def check(self, manifest: Manifest, where: Path) -> None:
        """Refuse a bundle that lies where another one belongs.

        Raises:
            BundleError: The manifest is that of another model or version.
        """
        if (found := BundleRef(manifest.name, manifest.version)) != self:
            raise BundleError(
                f"{where}: the manifest is that of {found}; `lowerbound promote` makes a new version of it"
            )


@dataclass(frozen=True)
class Fingerprint:
    """What a bundle looks like from outside.

    Attributes:
        digest: The manifest's SHA-256, or why there is none.
        files: Every file's name, size in bytes, and something that is another whenever the file is.
    """

    digest: str
    files: frozenset[tuple[str, int, str]]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size, _ in self.files)


class BundleStore(Protocol):
    """Bundles by name and version.

    Attributes:
        folder: Where this machine has them.
    """

    folder: Path

    def list_bundles(self) -> dict[BundleRef, Fingerprint]:
        """The complete bundles, good and bad, those of a name from the oldest version to the latest.

        Version 0 stands for a model's folder that cannot be looked into.

        Raises:
            StorageError: They cannot be reached now.
        """

    def misnamed(self) -> Mapping[str, Sequence[str]]:
        """By model, the folders of bundles whose names are no versions, at the last look."""

    def fetch(self, ref: BundleRef, trusted: TrustedKeys | None = None) -> Path:
        """The folder of a bundle that was there at the last look.

        Args:
            ref: The bundle's.
            trusted: See `read_bundle`; what must be copied to this machine is so only if one of them has signed it.

        Raises:
            BundleError: What is there is not what its manifest says, or not signed.
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
        here = Path(os.path.realpath(path))  # Which does not mind a link to itself.
        if os.path.lexists(here / MANIFEST):
            return cls(here.parents[1], here.parent.name, here.name)
        of_model = versions(here.parent, here.name) or misnamed(here.parent, here.name)
        if of_model and not versions(here):
            return cls(here.parent, here.name)
        return cls(path)

    def __str__(self) -> str:
        return str(self.folder.joinpath(*filter(None, (self._name, self._version))))

    def list_bundles(self) -> dict[BundleRef, Fingerprint]:
        return {
            ref: _fingerprint(self.fetch(ref))
            for name, numbers in versions(self.folder, self._name).items()
            for ref in (BundleRef(name, number) for number in numbers)
            if self._version in {None, str(ref.version)}
        }

    def misnamed(self) -> dict[str, list[str]]:
        found = misnamed(self.folder, self._name)
        if self._version is not None:
            found = {name: [self._version] for name, folders in found.items() if self._version in folders}
        return found

    def fetch(self, ref: BundleRef, trusted: TrustedKeys | None = None) -> Path:
        return self.folder.joinpath(ref.name, *([str(ref.version)] if ref.version else []))

    def next_version(self, name: str) -> int:
        """The version of a model after all of which anything is there, complete or not."""
        taken = (int(path.name) for path in (self.folder / name).glob("*") if path.name.isdecimal())
        return max(taken, default=0) + 1

    def try_to_write(self, name: str) -> None:
        """Raise an `OSError` where no bundle of this name could be written; nothing stays there."""
        place = self.folder / name
        existing = next(folder for folder in (place, *place.parents) if os.path.lexists(folder))
        try:
            Path(tempfile.mkdtemp(prefix=".", dir=existing)).rmdir()
        except OSError as error:
            error.filename = str(place)
            raise

    def write(self, manifest: Manifest, files: Mapping[str, bytes]) -> Path:
        """See `write_bundle`."""
        return write_bundle(self.folder, manifest, files)

    def write_next(self, manifest: Manifest, files: Mapping[str, bytes]) -> Path:
        """Write a bundle as the next version of its model, created now; see `write_bundle`."""
        changes = {"version": self.next_version(manifest.name), "created": datetime.now(UTC)}
        return self.write(manifest.model_copy(update=changes), files)


def _fingerprint(folder: Path) -> Fingerprint:
    """The fingerprint of a bundle in a folder, good or bad; an unreadable file may become readable without a change."""
    try:
        with BundleFolder(folder) as opened:
            digest = hashlib.sha256(opened.read(MANIFEST, MAX_MANIFEST_BYTES)).hexdigest()
    except BundleError as error:
        digest = str(error)
    return Fingerprint(digest, frozenset(islice(_marks(folder), MAX_FILES)))


def _marks(folder: Path) -> Iterator[tuple[str, int, str]]:
    """Name, size and time of change of what lies where a bundle has its files; links are not followed."""
    for where in (folder, folder / "card"):
        with contextlib.suppress(OSError), os.scandir(where) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # Gone since.
                    seen = entry.stat(follow_symlinks=False)
                    yield entry.path, seen.st_size, str(seen.st_ctime_ns)
