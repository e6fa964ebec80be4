"""Bundles written so that they appear whole or not at all."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from service.bundle.files import MANIFEST
from service.bundle.manifest import File, Manifest
from service.errors import BundleError

_UNFINISHED = ".new"
"""The end of a temporary folder's name; a user may hide a version by another name that begins with a dot."""


def write_bundle(repository: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Path:
    """Write a bundle so that it appears whole or not at all, and return its folder.

    The files, exactly those that the manifest lists, go to a temporary folder beside their destination, each flushed to
    the disk; one rename then publishes them. A crash leaves at most the temporary folder. Readers pass over it, and the
    next writer of a bundle of that name removes it.

    Raises:
        BundleError: The manifest lists other files, or that version exists already.
    """
    parent = repository / manifest.name
    folder = parent / str(manifest.version)
    if manifest.files != describe_files(files):
        raise BundleError("the manifest does not describe these files")
    _refuse_existing(folder)
    parent.mkdir(parents=True, exist_ok=True)
    with _writing(parent) as descriptor:
        temporary = Path(tempfile.mkdtemp(_UNFINISHED, f".{folder.name}-", parent))
        try:
            for name, data in {**files, MANIFEST: dump_manifest(manifest)}.items():
                _write_file(temporary / name, data)
            temporary.chmod(0o755)
            try:
                temporary.rename(folder)
            except OSError:  # Also where another process was quicker, since its folder is not empty.
                _refuse_existing(folder)
                raise
            os.fsync(descriptor)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return folder


def describe_files(files: Mapping[str, bytes]) -> dict[str, File]:
    """The manifest's entry for each file."""
    return {name: File(sha256=hashlib.sha256(data).hexdigest(), size=len(data)) for name, data in files.items()}


def dump_manifest(manifest: Manifest) -> bytes:
    """The bytes of manifest.json."""
    return manifest.model_dump_json(indent=2).encode() + b"\n"


def _refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise BundleError(f"{folder} exists already: a published version is never overwritten")


@contextmanager
def _writing(parent: Path) -> Iterator[int]:
    """Hold a folder open to write in it, and remove what killed writers have left there if no other one writes.

    Every writer holds a shared lock, and the system lets go of it for a process that is killed.
    """
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # Another one writes, or the file system has no locks.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in parent.glob(f".*{_UNFINISHED}"):
                shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield descriptor
    finally:
        os.close(descriptor)


def _write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)  # Errors of `write` and `fsync` name no file.
        raise
