"""A bundle's folder, read as the work of a hostile author.

Every file is opened once, relative to the open folder. Its kind and size are taken from the open file, and no more than
that size is read. The reader follows no link within the folder and waits for no pipe. It refuses links, pipes, devices
and files that change meanwhile.
"""

import os
import re
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from service.errors import BundleError

MAX_FILES = 1000
MAX_BYTES = 4 * 2**30
"""Bytes of all files of a bundle, which the service holds in memory."""

_FILE_NAME = re.compile(r"(card/)?[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Neither follow a link nor wait for the other end of a pipe."""


class BundleFolder:
    """A folder that is held open, to read files from.

    Args:
        path: The folder; a link to one is followed, since where bundles lie is the operator's choice.

    Raises:
        BundleError: It is no folder, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise BundleError(f"{path}: {_reason(error)}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)

    def read(self, name: str, most: int, size: int | None = None) -> bytes:
        """The contents of a file of at most so many bytes, and of exactly `size` where that is known.

        Its name has `/` between folders.

        Raises:
            BundleError: There is no such plain file, it cannot be read, or it has another size.
        """
        where = self.path / name
        try:
            with os.fdopen(self._open(where, name), "rb") as file:
                found = os.fstat(file.fileno()).st_size
                if size is not None and found != size:
                    raise BundleError(f"{where}: {found} bytes; the manifest says {size}")
                if found > most:
                    raise BundleError(f"{where}: {found:,} bytes; at most {most:,} are read")
                data = file.read(found + 1)
        except (OSError, ValueError) as error:
            raise BundleError(f"{where}: {_reason(error)}") from error
        if len(data) != found:
            raise BundleError(f"{where}: it changes while it is read")
        return data

    def _open(self, where: Path, name: str) -> int:
        """A descriptor of a plain file."""
        *parents, last = name.split("/")
        with ExitStack() as opened:
            folder = self._descriptor
            for parent in parents:
                folder = os.open(parent, _OPEN | os.O_DIRECTORY, dir_fd=folder)
                opened.callback(os.close, folder)
            # Opening a device may use it, so its kind is checked before; and after, since another file may lie there.
            _check_plain(os.stat(last, dir_fd=folder, follow_symlinks=False), where)
            descriptor = os.open(last, _OPEN, dir_fd=folder)
            try:
                _check_plain(os.fstat(descriptor), where)
            except BundleError:
                os.close(descriptor)
                raise
            return descriptor


def check_files(sizes: Mapping[str, int]) -> None:
    """Check the names of a bundle's files, with their sizes in bytes: plain names, different on every file system.

    Raises:
        ValueError: They are too many or too large, or a name is none.
    """
    if len(sizes) > MAX_FILES:
        raise ValueError(f"files: {len(sizes):,}; at most {MAX_FILES:,} are read")
    if (size := sum(sizes.values())) > MAX_BYTES:
        raise ValueError(f"files: {size:,} bytes; at most {MAX_BYTES:,} are read")
    taken = {"manifest.json", "manifest.sig", "card"}
    for name in sizes:
        if not _FILE_NAME.fullmatch(name):
            raise ValueError(
                f"files: {name[:100]!r} is no plain name of letters, digits, '.', '_' and '-', or in card/"
            )
        if name.lower() in taken:
            raise ValueError(f"files: {name!r} is taken by another file")
        taken.add(name.lower())


def _check_plain(found: os.stat_result, where: Path) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise BundleError(f"{where}: is a symbolic link; a bundle has plain files only")
    if not stat.S_ISREG(found.st_mode):
        raise BundleError(f"{where}: is no plain file")


def _reason(error: OSError | ValueError) -> str:
    """Why there is no file to read: the system's word, or Python's for a name that can be none."""
    return f"cannot be read: {error.strerror if isinstance(error, OSError) else error}"
