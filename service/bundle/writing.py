"""Bundles written so that they appear whole or not at all."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from service.bundle.files import MANIFEST
from service.bundle.manifest import File, Manifest
from service.errors import BundleError


def write_bundle(repository: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Path:
    """Write a bundle so that it appears whole or not at all, and return its folder.

    The files, exactly those that the manifest lists, go to a temporary folder beside their destination, each flushed to
    the disk; one rename then publishes them. A crash leaves at most the temporary folder, which readers pass over.

    Raises:
        BundleError: The manifest lists other files, or that version exists already.
    """
    parent = repository / manifest.name
    folder = parent / str(manifest.version)
    if manifest.files != describe_files(files):
        raise BundleError("the manifest does not describe these files")
    if folder.exists():
        raise BundleError(f"{folder} exists already: a published version is never overwritten")
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=parent))
    try:
        for name, data in {**files, MANIFEST: dump_manifest(manifest)}.items():
            _write_file(temporary / name, data)
        temporary.chmod(0o755)
        temporary.rename(folder)  # Fails, too, where another process was quicker: that folder is not empty.
        _flush_folder(parent)
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


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
