"""The cache: a repository at a URL, copied to a folder of this machine bundle by bundle.

    <name>/<version>/     a whole bundle: a folder like any other repository's
    <name>/.<version>-…/  a bundle that is being downloaded

The signature of the manifest is checked first, if there are trusted keys, then the listed sizes. Only then is a bundle
downloaded. It gets its folder once all its files have their digests, and no file there is ever written to. Processes
that copy the same URL into the same folder take turns.
"""

import fcntl
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.bundle import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    SIGNATURE_BYTES,
    BundleFolder,
    File,
    TrustedKeys,
    parse_manifest,
)
from service.errors import BundleError, LowerboundError, StorageError
from service.storage.local import BundleRef, Fingerprint, LocalStore
from service.storage.remote import RemoteStore

TRIES = 2
"""A download with another digest may have been damaged on its way, once."""

logger = logging.getLogger("service")


@dataclass(frozen=True)
class _Seen:
    """A bundle as it was at the last look.

    Attributes:
        fingerprint: What it looks like.
        sizes: Of its files, as they are listed.
        manifest: The bytes of its manifest, or why there are none.
    """

    fingerprint: Fingerprint
    sizes: Mapping[str, int]
    manifest: bytes | LowerboundError


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

    def misnamed(self) -> Mapping[str, Sequence[str]]:
        return self._remote.misnamed

    def fetch(self, ref: BundleRef, trusted: TrustedKeys | None = None) -> Path:
        folder = self.folder / ref.path
        if self._seen is None:
            return folder
        with self._alone():
            seen, where = self._seen[ref], Path(ref.path)
            if isinstance(seen.manifest, LowerboundError):
                raise seen.manifest
            written = {MANIFEST: seen.manifest}
            if seen.sizes.get(SIGNATURE) == SIGNATURE_BYTES:
                written[SIGNATURE] = self._remote.read(ref, SIGNATURE, SIGNATURE_BYTES)
            if trusted is not None:
                if SIGNATURE not in written:
                    raise BundleError(f"{where / SIGNATURE}: no signature; unsigned bundles are refused")
                trusted.check(seen.manifest, written[SIGNATURE], where / SIGNATURE)
            manifest = parse_manifest(seen.manifest, where)
            ref.check(manifest, where)
            for name, expected in manifest.files.items():
                _check_size(where / name, seen.sizes.get(name), expected)
            if not _is_whole(folder, manifest.files, written):
                self._download(ref, folder, manifest.files, written)
        return folder

    def _list_bundles(self) -> dict[BundleRef, _Seen]:
        seen: dict[BundleRef, _Seen] = {}
        for ref, files in self._remote.listing().items():
            listed = frozenset((name, file.size, file.mark) for name, file in files.items())
            before = (self._seen or {}).get(ref)
            if before is not None and before.fingerprint.files == listed and isinstance(before.manifest, bytes):
                seen[ref] = before
                continue
            sizes = {name: file.size for name, file in files.items()}
            manifest = self._read_manifest(ref, sizes[MANIFEST])
            digest = hashlib.sha256(manifest).hexdigest() if isinstance(manifest, bytes) else str(manifest)
            seen[ref] = _Seen(Fingerprint(digest, listed), sizes, manifest)
        problems = [bundle.manifest for bundle in seen.values() if isinstance(bundle.manifest, StorageError)]
        if problems and len(problems) == len(seen):  # It cannot be reached at all.
            raise problems[0]
        return seen

    def _read_manifest(self, ref: BundleRef, size: int) -> bytes | LowerboundError:
        """The bytes of a manifest, or why they cannot be read: other bundles can be, nevertheless."""
        if size > MAX_MANIFEST_BYTES:
            return BundleError(f"{ref.path}/{MANIFEST}: at most {MAX_MANIFEST_BYTES:,} bytes are read")
        try:
            return self._remote.read(ref, MANIFEST, MAX_MANIFEST_BYTES) if size else b""
        except LowerboundError as error:
            return error

    def _download(self, ref: BundleRef, folder: Path, files: Mapping[str, File], written: Mapping[str, bytes]) -> None:
        """Make a bundle's folder, and replace what is there."""
        folder.parent.mkdir(exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for name, expected in files.items():
                (temporary / name).parent.mkdir(exist_ok=True)
                self._download_file(ref, name, expected, temporary / name)
            for name, data in written.items():
                (temporary / name).write_bytes(data)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _download_file(self, ref: BundleRef, name: str, expected: File, to: Path) -> None:
        for _ in range(TRIES):
            self._remote.download(ref, name, to, expected.size)
            with to.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest == expected.sha256:
                return
        raise BundleError(f"{ref.path}/{name}: SHA-256 is {digest}; the manifest says {expected.sha256}")

    def _forget(self, seen: Mapping[BundleRef, _Seen]) -> None:
        """Remove what is at the URL no more, and what a killed process has left."""
        kept = {self.folder / ref.path for ref in seen}
        for folder in self.folder.glob("*/*"):
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others out of the folder meanwhile; the system lets go of it for a process that is killed."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be written: {error.strerror or error}") from error


def _check_size(where: Path, size: int | None, expected: File) -> None:
    if size is None:
        raise BundleError(f"{where}: is not there")
    if size != expected.size:
        raise BundleError(f"{where}: {size} bytes; the manifest says {expected.size}")


def _is_whole(folder: Path, files: Mapping[str, File], written: Mapping[str, bytes]) -> bool:
    """Whether a bundle is there, as it has to be."""
    try:
        with BundleFolder(folder) as opened:
            return all(
                hashlib.sha256(opened.read(name, file.size, file.size)).hexdigest() == file.sha256
                for name, file in files.items()
            ) and all(opened.read(name, len(data)) == data for name, data in written.items())
    except BundleError:
        return False
