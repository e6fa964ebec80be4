"""The mirror: a repository at a URL, copied to a folder of this machine as its bundles are asked for.

    <name>/<version>/    a bundle, whole: a folder like any other repository's
    .sha256/<digest>     its files, of which the bundle's are further names; versions share those they have in common

A download gets the name of its digest once it has been found to have it, and a bundle its folder when all of it is
there: a process that is killed leaves nothing that anyone takes for whole. All processes that mirror the same URL into
the same folder take turns.

This module must not know about HTTP, or what becomes of the bundles.
"""

import fcntl
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.bundle import MANIFEST, SIGNATURE, File, parse_manifest
from service.errors import BundleError, StorageError
from service.storage.local import BundleRef, Fingerprint, LocalStore
from service.storage.remote import RemoteStore

TRIES = 2
"""A download with another digest may have been damaged on its way, once."""

logger = logging.getLogger("service")


@dataclass(frozen=True)
class _Seen:
    """A bundle as it was at the last look."""

    fingerprint: Fingerprint
    manifest: bytes


class CachedStore:
    """The bundles at a URL; see `BundleStore`.

    Where the URL cannot be reached at the first look, what was copied from it before is what there is.

    Args:
        url: See `RemoteStore`.
        cache: The folder in which every URL has its own.

    Raises:
        ExtraError: The URL's driver is not installed.
        StorageError: There is no such file system.
    """

    def __init__(self, url: str, cache: Path) -> None:
        self._remote = RemoteStore(url)
        self.folder = cache / hashlib.sha256(self._remote.url.encode()).hexdigest()[:16]
        self._contents = self.folder / ".sha256"
        self._seen: dict[BundleRef, _Seen] | None = None

    def __str__(self) -> str:
        return self._remote.url

    def list_bundles(self) -> dict[BundleRef, Fingerprint]:
        with self._alone():
            try:
                seen = self._list_bundles()
            except StorageError as error:
                before = LocalStore(self.folder).list_bundles()
                if self._seen is not None or not before:
                    raise
                logger.error("%s; what was downloaded before is served", error)  # noqa: TRY400 - no traceback
                return before
            if seen and seen != self._seen:
                self._forget(seen)
            self._seen = seen
            return {ref: bundle.fingerprint for ref, bundle in seen.items()}

    def fetch(self, ref: BundleRef) -> Path:
        folder = self.folder / ref.name / str(ref.version)
        if self._seen is None:
            return folder
        with self._alone():
            seen = self._seen[ref]
            manifest = parse_manifest(seen.manifest, folder)
            sizes = {name: size for name, size, _ in seen.fingerprint.files}
            contents = {
                name: self._content(ref, name, expected, sizes.get(name)) for name, expected in manifest.files.items()
            }
            written = {MANIFEST: seen.manifest}
            if SIGNATURE in sizes:
                written[SIGNATURE] = self._remote.read(ref, SIGNATURE)
            if not _is_complete(folder, contents, written):
                _complete(folder, contents, written)
        return folder

    def _list_bundles(self) -> dict[BundleRef, _Seen]:
        seen: dict[BundleRef, _Seen] = {}
        for ref, files in self._remote.listing().items():
            listed = frozenset((name, file.size, file.mark) for name, file in files.items())
            before = (self._seen or {}).get(ref)
            if before is not None and before.fingerprint.files == listed:
                seen[ref] = before
            else:
                manifest = self._remote.read(ref, MANIFEST)
                seen[ref] = _Seen(Fingerprint(hashlib.sha256(manifest).hexdigest(), listed), manifest)
        return seen

    def _content(self, ref: BundleRef, name: str, expected: File, size: int | None) -> Path:
        """The file with the content that a bundle's file must have, downloaded if it is not there yet."""
        content = self._contents / expected.sha256
        if content.exists() and _digest(content) == expected.sha256:
            return content
        where = f"{ref.name}/{ref.version}/{name}"
        if size is None:
            raise BundleError(f"{where}: is not there")
        if size != expected.size:
            raise BundleError(f"{where}: {size} bytes; the manifest says {expected.size}")
        unproven = content.with_name(f".{expected.sha256}")
        for _ in range(TRIES):
            self._remote.download(ref, name, unproven)
            digest = _digest(unproven)
            if digest == expected.sha256:
                return unproven.replace(content)
        unproven.unlink()
        raise BundleError(f"{where}: SHA-256 is {digest}; the manifest says {expected.sha256}")

    def _forget(self, seen: Mapping[BundleRef, _Seen]) -> None:
        """Remove what is in none of these bundles, and what a killed process has left."""
        kept = {str(self.folder / ref.name / str(ref.version)) for ref in seen}
        for folder in self.folder.glob("[!.]*/*"):
            if str(folder) not in kept:
                shutil.rmtree(folder)
        digests: set[str] = set()
        for bundle in seen.values():
            try:
                digests |= {file.sha256 for file in parse_manifest(bundle.manifest, self.folder).files.values()}
            except BundleError:  # To be told of by whoever asks for it.
                continue
        for content in self._contents.iterdir():
            if content.name not in digests:
                content.unlink()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others out of the folder meanwhile; the system lets go of it for a process that is killed."""
        try:
            self._contents.mkdir(parents=True, exist_ok=True)
            with (self.folder / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be written: {error.strerror or error}") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_complete(folder: Path, contents: Mapping[str, Path], written: Mapping[str, bytes]) -> bool:
    try:
        return (
            all((folder / name).samefile(content) for name, content in contents.items())
            and all((folder / name).read_bytes() == data for name, data in written.items())
            and (folder / SIGNATURE).exists() == (SIGNATURE in written)
        )
    except FileNotFoundError:
        return False


def _complete(folder: Path, contents: Mapping[str, Path], written: Mapping[str, bytes]) -> None:
    """Make a bundle's folder, in the place of whatever is there."""
    folder.parent.mkdir(exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    for name, content in contents.items():
        path = temporary / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(content)
    for name, data in written.items():
        (temporary / name).write_bytes(data)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
