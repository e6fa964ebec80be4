"""Pictures: files of one instance each, and which files of a folder they are."""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import fsspec
import numpy as np

from service.bulk.batches import Batch
from service.bundle import Array, ImageInput, TabularInput
from service.codecs.instances import parse_picture
from service.codecs.rows import Marks
from service.errors import FileError
from service.readers.arrays import GZIP, is_idx
from service.readers.files import reading
from service.readers.pictures import SUFFIXES, is_picture

_HEAD = 1024
"""Bytes of a file that say what it is."""


class Pictures:
    """Pictures, one a file."""

    seeks = True

    def __init__(self, path: str, files: Sequence[str], data: ImageInput | TabularInput) -> None:
        if not isinstance(data, ImageInput):
            raise FileError(f"{path}: pictures, where the model's data are rows of a table")
        self.path = path
        self._root = Path(path).absolute()
        self._files = files
        self._data = data

    def count(self) -> int:
        return len(self._files)

    def read(self, start: int, rows: int) -> Iterator[Batch]:
        for first in range(start, len(self._files), rows):
            files = self._files[first : first + rows]
            marks = Marks()
            x = np.concatenate([self._picture(file, i, marks) for i, file in enumerate(files)])
            yield Batch(x, [self._as_given(file) for file in files], marks=marks)

    def _as_given(self, file: str) -> str:
        """Name a file below the folder as the user names the folder; the file system makes local paths absolute."""
        if not Path(file).is_relative_to(self._root):
            return file
        return str(Path(self.path) / Path(file).relative_to(self._root))

    def _picture(self, name: str, row: int, marks: Marks) -> Array:
        with reading(name), fsspec.open(name, "rb") as file:
            body = file.read()
        return parse_picture(body, self._data, row, marks.unreadable)


def kind_of(path: str) -> Literal["picture", "idx"] | None:
    """Whether a file is a picture or an IDX file of pictures, by its content; a picture's name is believed.

    A link to nothing is neither.

    Raises:
        FileError: It cannot be read.
    """
    if Path(path).is_symlink() and not Path(path).exists():
        return None
    if path.lower().endswith(SUFFIXES):
        return "picture"
    with reading(path), fsspec.open(path, "rb") as file:
        head = file.read(_HEAD)
        if head.startswith(GZIP):
            head = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(head, _HEAD)
    return "picture" if is_picture(head) else "idx" if is_idx(head) else None
