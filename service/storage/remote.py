"""A repository of bundles at a URL: in S3, Google Cloud Storage, or another store that fsspec has a driver for.

Its layout is that of a folder, `<name>/<version>/`. Object stores cannot rename a folder, so the manifest is written
last: a bundle is complete once it has one. Each driver finds credentials in variables and files of its own.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fsspec.callbacks import Callback
from fsspec.core import url_to_fs

from service.bundle import MANIFEST, VERSION, Manifest, dump_manifest
from service.errors import BundleError, ExtraError, LowerboundError, StorageError
from service.storage.local import BundleRef

_FILE = re.compile(r"([^/.][^/]*)/([^/.][^/]*)/(.+)")
"""Name, folder and file; hidden names are passed over."""


class File(NamedTuple):
    """A file as a listing has it."""

    size: int
    """Bytes."""
    mark: str
    """An ETag or a time from the driver, which changes with the file."""


class _Limit(Callback):  # type: ignore[misc]  # fsspec has no types.
    """Told how much of a file is copied; breaks off where that is more than it may."""

    def __init__(self, most: int, name: str) -> None:
        super().__init__()
        self._most = most
        self._name = name

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        if self.value > self._most:
            raise BundleError(f"{self._name}: more than the {self._most} bytes that the manifest says")


class RemoteStore:
    """The bundles at a URL.

    Args:
        url: Of a file system that fsspec knows.

    Attributes:
        misnamed: By model, the folders of bundles whose names are no versions, at the last look.

    Raises:
        ExtraError: Its driver is not installed.
        StorageError: There is no such file system, or it cannot list files.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self._system, root = url_to_fs(self.url)
        except ImportError as error:
            raise ExtraError(f"{url}: {error}") from error
        except ValueError as error:
            raise StorageError(f"{url}: {error}") from error
        if url.startswith(("http:", "https:")):  # Its driver lists nothing where a server cannot be reached.
            raise StorageError(f"{url}: a web server does not list its files; give a folder or a store, as s3://bucket")
        self._root = root.rstrip("/")
        self.misnamed: Mapping[str, Sequence[str]] = {}

    def listing(self) -> dict[BundleRef, dict[str, File]]:
        """The files of every complete bundle, by their names in it; those of a name from the oldest version on.

        Raises:
            StorageError: They cannot be listed now.
        """
        with self._reaching():
            return {ref: files for ref, files in sorted(self._find().items()) if MANIFEST in files}

    def read(self, ref: BundleRef, name: str, most: int) -> bytes:
        """A file of a bundle.

        Raises:
            BundleError: It has more than so many bytes.
            StorageError: It cannot be read now.
        """
        with self._reaching():
            content: bytes = self._system.cat_file(self._path(ref, name), start=0, end=most + 1)
        if len(content) > most:
            raise BundleError(f"{ref.path}/{name}: at most {most:,} bytes are read")
        return content

    def download(self, ref: BundleRef, name: str, to: Path, size: int) -> None:
        """Copy a file of a bundle, of so many bytes, to this machine.

        Raises:
            BundleError: It has more.
            StorageError: It cannot be read now, or not to its end.
        """
        with self._reaching():
            self._system.get_file(self._path(ref, name), str(to), callback=_Limit(size, f"{ref.path}/{name}"))

    def next_version(self, name: str) -> int:
        """The version of a model after all of which anything is there, complete or not."""
        with self._reaching():
            return max((ref.version for ref in self._find() if ref.name == name), default=0) + 1

    def try_to_write(self, name: str) -> None:
        """Raise a `StorageError` where no bundle of this name could be written."""
        path = f"{self._root}/{name}/.written"
        with self._reaching():
            self._find()  # Fails if the bucket does not exist; the next line would create it.
            self._system.makedirs(f"{self._root}/{name}", exist_ok=True)
            self._system.pipe_file(path, b"")
            self._system.rm_file(path)

    def write(self, manifest: Manifest, files: Mapping[str, bytes]) -> str:
        """Write a bundle, its manifest last, and return its URL. It overwrites nothing.

        Raises:
            BundleError: Something of that version is there already.
            StorageError: It cannot be written now; without its manifest it is no bundle.
        """
        ref = BundleRef(manifest.name, manifest.version)
        with self._reaching():
            for name, data in {**files, MANIFEST: dump_manifest(manifest)}.items():
                path = self._path(ref, name)
                self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
                try:
                    self._system.pipe_file(path, data, mode="create")
                except FileExistsError as error:
                    raise BundleError(f"{self.url}: {path} exists already, and is never overwritten") from error
        return f"{self.url}/{ref.path}"

    def _find(self) -> dict[BundleRef, dict[str, File]]:
        self._system.invalidate_cache()
        found: dict[BundleRef, dict[str, File]] = {}
        misnamed: dict[str, list[str]] = {}
        for path, seen in self._system.find(self._root, detail=True).items():
            # Under file:// a name may be a pipe or a device, which may have no end.
            place = _FILE.fullmatch(path[len(self._root) + 1 :])
            if place is None or seen.get("type", "file") != "file":
                continue
            name, folder, file = place.groups()
            if VERSION.fullmatch(folder):
                found.setdefault(BundleRef(name, int(folder)), {})[file] = File(int(seen["size"]), str(seen))
            elif file == MANIFEST:
                misnamed.setdefault(name, []).append(folder)
        self.misnamed = misnamed
        return found

    def _path(self, ref: BundleRef, name: str) -> str:
        return f"{self._root}/{ref.path}/{name}"

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except LowerboundError:
            raise
        except Exception as error:  # Drivers raise kinds of their own, and those of their HTTP libraries.
            raise StorageError(f"{self.url}: cannot be reached: {error or type(error).__name__}") from error
