"""Files that a path leads to, and their bytes, decompressed.

A path is local or a URL of a file system that fsspec knows; it names a file, a folder of parts, or a pattern such as
`rows-*.csv`. Hidden files are no parts, nor are the files that Spark and Hive keep beside theirs, as `_SUCCESS`.
"""

import csv
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import fsspec
import pyarrow as pa
from fsspec.core import url_to_fs

from service.errors import FileError, RequestError
from service.readers.arrays import GZIP

_HIDDEN = r"\.|~\$|(thumbs\.db|desktop\.ini)$"
"""How the names of hidden files begin, and of those that Excel and Windows keep beside others."""

_END_MARK = b"\x1a"
_ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class TextBytes:
    """A text file in memory, as a client has sent it. It is never decompressed: few bytes could become any number."""

    body: bytes

    def __str__(self) -> str:
        return "body"


Source = str | TextBytes
"""A text file: its path, or its bytes."""


def find_files(path: str, *, pictures: bool = False) -> list[str]:
    """Find the file, the visible files below a folder, or the files that a pattern fits, in the order of their names.

    Among pictures names with an underscore are visible, and files of no bytes are damaged pictures.

    Raises:
        FileError: There are none.
    """
    with reading(path):
        system, bare = url_to_fs(path)
        if system.isdir(bare):
            root, found = bare.rstrip("/"), find_below(system, bare)
            hidden = re.compile(rf"(^|/)({'' if pictures else '_|'}{_HIDDEN})", re.IGNORECASE)
            files = [file for file in sorted(found) if not hidden.search(file[len(root) :])]
        elif system.exists(bare):
            refuse_pipe(system, bare)
            return [path]
        elif re.search(r"[*?\[]", bare):
            found = system.glob(bare, detail=True)
            files = sorted(file for file, details in found.items() if details["type"] != "directory")
            for file in files:
                refuse_pipe(system, file)
        else:
            raise FileError(f"{path}: no such file or folder")
        if not files:
            raise FileError(f"{path}: no files there")
        if not pictures:  # Spark writes parts without rows as files of no bytes.
            files = [file for file in files if found[file]["size"] != 0] or files
        if not is_local(system):
            return [system.unstrip_protocol(file) for file in files]
        # The file system makes paths absolute, and pictures have names of their own.
        return files if pictures or "://" in path or Path(path).is_absolute() else [os.path.relpath(f) for f in files]


def is_local(system: fsspec.AbstractFileSystem) -> bool:
    """Whether a file system is this machine's."""
    return "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,))


def refuse_pipe(system: fsspec.AbstractFileSystem, path: str) -> None:
    """Refuse what is there and no plain file.

    Raises:
        FileError: It is a pipe or a device, which may have no end.
    """
    if is_local(system) and Path(path).exists() and not Path(path).is_file():
        raise FileError(f"{path}: a pipe or a device, which can be read only once; write it to a file first")


def find_below(system: fsspec.AbstractFileSystem, folder: str) -> dict[str, Mapping[str, Any]]:
    """Find all files below a folder, with their details by path. Links to folders are followed, each folder once.

    Raises:
        FileError: See `refuse_pipe`.
    """
    found: dict[str, Mapping[str, Any]] = {}
    root = os.path.realpath(folder)
    seen, waiting = {root}, [folder]
    while waiting:
        for file, details in system.find(waiting.pop(), detail=True).items():
            if is_local(system) and details.get("islink") and Path(file).is_dir():
                target = os.path.realpath(file)
                if target not in seen and not root.startswith(f"{target}/"):  # Not around in a circle.
                    seen.add(target)
                    waiting.append(file)
            else:
                if details["type"] == "other":  # Or a link to a file.
                    refuse_pipe(system, file)
                found[file] = details
    return found


@contextmanager
def open_file(path: Source) -> Iterator[IO[bytes]]:
    """Open a file's bytes, decompressed where its first bytes are those of gzip or zstd."""
    if isinstance(path, TextBytes):
        yield io.BytesIO(path.body)
        return
    with fsspec.open(path, "rb") as file:
        start = file.read(4)
        file.seek(0)
        if start.startswith(GZIP):
            with gzip.open(file) as plain:
                yield cast("IO[bytes]", plain)
        elif start == _ZSTD:
            with pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd") as plain:
                yield plain
        else:
            yield file


@contextmanager
def open_text(path: Source, encoding: str) -> Iterator[IO[bytes]]:
    """Open a text file's bytes, without the mark by which DOS ends a file."""
    with open_file(path) as file:
        # The last byte of a text in UTF-16 may be the same.
        yield file if encoding.lower().startswith(("utf-16", "utf-32")) else cast("IO[bytes]", _WithoutEndMark(file))


class _WithoutEndMark(io.RawIOBase):
    """The bytes of a file but the mark at its end, for which the next byte is read ahead."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._ahead = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._ahead + (self._file.read() if size < 0 else self._file.read(size + 1 - len(self._ahead)))
        if size < 0 or len(data) <= size:
            self._ahead = b""
            return data.removesuffix(_END_MARK)
        self._ahead = data[size:]
        return data[:size]

    def read1(self, size: int = -1, /) -> bytes:
        """The same, as `io.TextIOWrapper` asks for it."""
        return self.read(size)


@contextmanager
def reading(path: Source) -> Iterator[None]:
    """Turn every error of a file, and of what a decoder finds in it, into a `FileError` that names the file."""
    try:
        yield
    except FileError:
        raise
    except RequestError as error:
        raise FileError(f"{path}: {error.detail}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except (ValueError, ImportError, csv.Error, pa.ArrowException) as error:  # A driver is missing.
        raise FileError(f"{path}: cannot be read: {error}") from error
