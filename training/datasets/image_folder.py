"""A folder of picture files."""

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from fsspec.core import url_to_fs
from pydantic import Field, PositiveInt
from pydantic_settings import CliImplicitFlag
from rich.console import Console
from rich.progress import track

from service.bundle import ImageInput, PictureReading
from service.errors import FileError, RequestError
from service.readers.files import find_below
from service.readers.pictures import SUFFIXES, Picture
from training.datasets.exclusions import Excluding
from training.datasets.source import Dataset, allocate, chunks, require_path

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")

MANY = 1000
"""More files show their progress."""

TRIED = 100
"""Most pictures, from all over a folder, that show whether any of them can be read."""

NAMED = 3
"""Most files, sizes and reasons that a message names of each."""

DARK = 32
"""Levels below which all pictures are nearly black, as 12 bits are in files of 16."""

SUGGESTED = 128
"""Pixels of the longer side of a suggested size, at most."""

LARGE = 3 * SUGGESTED**2
"""Pixels of a picture above which a smaller size is suggested; 224 × 224, as classifiers take them, are more."""

_ARRAYS, _IDX = (".npy", ".npz"), ("idx3-ubyte", "idx4-ubyte")
"""How names end, or what they hold, of files that other recipes read."""


class _Header(NamedTuple):
    size: tuple[int, int]
    is_gray: bool
    is_deep: bool


class ImageFolder(Excluding):
    """Every picture at any depth, ordered by path, but hidden files; whole levels from 0 to 255.

    `service.readers.pictures` says how a file is read. Files that cannot be read are left out and named. Pictures are
    grey if all of them are; otherwise grey ones become RGB.
    """

    kind: Literal["image_folder"] = "image_folder"
    size: tuple[PositiveInt, PositiveInt] | None = Field(
        default=None, description="Height and width to resize every picture to, with antialiasing."
    )
    color: Literal["gray", "rgb"] | None = Field(
        default=None, description="The mode that every picture is converted to."
    )
    background: Literal["white", "black"] | None = Field(
        default=None, description="The colour behind transparent pixels; null leaves such pictures out."
    )
    strict: CliImplicitFlag[bool] = Field(
        default=False, description="Refuse a folder in which a file cannot be read, instead of leaving the file out."
    )

    def load(self, path: Path | None) -> Dataset:
        folder = require_path(path)
        if folder.is_file():
            unpack = "; unpack it first" if folder.suffix.lower() in _ARCHIVES else ""
            remedy = _other_recipe([folder]) or f"; give a folder of pictures{unpack}"
            raise FileError(f"{folder}: is one file{remedy}")
        system, root = url_to_fs(str(folder))
        found = (Path(file).relative_to(root) for file in find_below(system, root))
        files = sorted(folder / file for file in found if not any(part.startswith(".") for part in file.parts))
        headers: dict[Path, _Header] = {}
        problems: dict[Path, str] = {}
        for file in _progress(files, "Looking at images"):
            try:
                picture = _open(file)
                headers[file] = _Header((picture.height, picture.width), picture.is_gray, picture.is_deep)
            except (RequestError, OSError) as error:
                problems[file] = _reason(error)
        if not headers:
            remedy = _other_recipe(files) or f". {_summary(problems, folder)}".rstrip()
            raise FileError(f"{folder}: holds no picture that can be read{remedy}")
        data = self._schema(folder, headers)
        self._refuse_unreadable(folder, list(headers), data, problems)
        rows = allocate((len(headers), *data.shape), np.uint8)
        read = 0
        for file in _progress(list(headers), "Reading images"):
            try:
                rows[read : read + 1] = _open(file).instances(data)
                read += 1
            except (RequestError, OSError) as error:
                problems[file] = _reason(error)
        if problems and self.strict:
            raise FileError(
                f"{folder}: {len(problems):,} of {len(files):,} files cannot be read. {_summary(problems, folder)}"
            )
        kept = {file: header for file, header in headers.items() if file not in problems}
        notes = _notes(kept, data, rows[:read], may_be_gray=self.color is None)
        if problems:
            notes.append(f"left out {len(problems):,} of {len(files):,} files. {_summary(problems, folder)}")
        names = tuple(str(file) for file in headers if file not in problems)
        return self.without_anomalies(Dataset(data, rows[:read], notes=tuple(notes), names=names), folder)

    def _schema(self, folder: Path, headers: Mapping[Path, _Header]) -> ImageInput:
        """What all pictures become.

        Raises:
            FileError: They have several sizes, and no size was told; says the command that trains.
        """
        sizes = Counter(header.size for header in headers.values())
        if self.size is None and len(sizes) > 1:
            middle = tuple(median(size[side] for size in sizes.elements()) for side in (0, 1))
            raise FileError(
                f"{folder}: pictures of {len(sizes)} sizes (height × width): "
                f"{_first([f'{n:,} of {h} × {w}' for (h, w), n in sizes.most_common()])}. Resize them all: "
                f"{self._command(folder, size=_smaller(middle))}"
            )
        is_gray = self.color == "gray" if self.color else all(header.is_gray for header in headers.values())
        reading = PictureReading(
            resample="lanczos" if self.size else None, to_gray=self.color == "gray", background=self.background
        )
        shape = self.size or next(iter(sizes))
        return ImageInput(shape=shape if is_gray else (*shape, 3), dtype="uint8", low=0, high=255, reading=reading)

    def _refuse_unreadable(
        self, folder: Path, files: list[Path], data: ImageInput, problems: Mapping[Path, str]
    ) -> None:
        """Refuse a folder if none of the pictures can be read that are tried for all.

        Raises:
            FileError: Says the command that trains if a background is all that is needed.
        """
        tried, unread = files[:: len(files) // TRIED + 1], dict(problems)
        for file in tried:
            try:
                _open(file).instances(data)
            except (RequestError, OSError) as error:
                unread[file] = _reason(error)
            else:
                return
        others = "" if len(tried) == len(files) else ", and no other was tried"
        raise FileError(
            f"{folder}: {len(unread):,} of {len(files) + len(problems):,} files cannot be read{others}. "
            f"{_summary(unread, folder)}{self._on_white(folder, files[0], data)}"
        )

    def _on_white(self, folder: Path, file: Path, data: ImageInput) -> str:
        """The command that trains, if a background is all that one of the pictures needs."""
        reading = data.reading.model_copy(update={"background": "white"})
        try:
            _open(file).instances(data.model_copy(update={"reading": reading}))
        except (RequestError, OSError):
            return ""
        return f". Lay them on white: {self._command(folder, background='white')}"

    def _command(self, folder: Path, **options: str) -> str:
        """The command that trains, with these options and those that the user gave."""
        told = self.model_dump(mode="json", exclude_defaults=True) | options
        parts = ["lowerbound", "train", "images", "--data", str(folder)]
        for name, value in told.items():
            parts += [f"--dataset.{name}"] if value is True else [f"--dataset.{name}", str(value)]
        return shlex.join(parts)


def _smaller(size: tuple[float, ...]) -> str:
    """The option `size` for pictures of this height and width: at most `SUGGESTED` pixels a side."""
    scale = min(1, SUGGESTED / max(size))
    height, width = (max(1, round(side * scale)) for side in size)
    return f"[{height},{width}]"


def _progress(files: list[Path], text: str) -> Iterable[Path]:
    return track(files, text, console=Console(stderr=True), disable=len(files) <= MANY)


def _open(file: Path) -> Picture:
    return Picture(file.read_bytes())


def _reason(error: RequestError | OSError) -> str:
    return error.detail if isinstance(error, RequestError) else f"cannot be read: {error.strerror or error}"


def _summary(problems: Mapping[Path, str], folder: Path) -> str:
    """The files that fail, by reason."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for file, reason in problems.items():
        by_reason[reason].append(str(file.relative_to(folder)))
    # Files that are named as pictures first: a user counts on them.
    reasons = sorted(
        by_reason.items(),
        key=lambda item: (not any(name.lower().endswith(SUFFIXES) for name in item[1]), -len(item[1])),
    )
    return _first([f"{_first(names)}: {reason}" for reason, names in reasons], "; ")


def _other_recipe(files: list[Path]) -> str:
    """The recipe that reads the first file of arrays among these, if there is one."""
    for file in files:
        if file.suffix.lower() in _ARRAYS:
            return f"; the recipe arrays reads {file.name}"
        if any(part in file.name for part in _IDX):
            return f"; the recipe mnist reads {file.name}"
    return ""


def _first(items: list[str], separator: str = ", ") -> str:
    more = f" and {len(items) - NAMED:,} more" if len(items) > NAMED else ""
    return separator.join(items[:NAMED]) + more


def _notes(
    headers: Mapping[Path, _Header], data: ImageInput, rows: npt.NDArray[np.uint8], *, may_be_gray: bool
) -> list[str]:
    """What is done to pictures that a user may not expect."""
    gray = sum(header.is_gray for header in headers.values()) if len(data.shape) == 3 else 0
    deep = sum(header.is_deep for header in headers.values())
    notes = []
    height, width = data.shape[:2]
    if height * width > LARGE:
        option = f"--dataset.size '{_smaller((height, width))}'"
        notes.append(f"pictures of {height:,} × {width:,} pixels take long to train on and to score: {option}")
    if may_be_gray and data.shape[2:] == (3,) and all((rows[p] == rows[p][..., :1]).all() for p in chunks(rows)):
        notes.append(
            "all pictures are RGB of three equal channels; --dataset.color gray makes them grey, and is faster"
        )
    elif gray:
        notes.append(
            f"{gray:,} of {len(headers):,} pictures are grey and become RGB; --dataset.color gray makes all grey"
        )
    by_stem: dict[Path, list[Path]] = defaultdict(list)
    for file in headers:
        by_stem[file.with_suffix("")].append(file)
    pairs = [names for names in by_stem.values() if len(names) > 1]
    if 4 * len(pairs) > len(headers):
        shown = " and ".join(name.name for name in pairs[0])
        notes.append(f"{len(pairs):,} names have several pictures, as {shown}; keep masks and copies in another folder")
    if deep:
        notes.append(f"{deep:,} of {len(headers):,} pictures have 16-bit levels, of which the upper 8 bits are kept")
    if (most := max(int(rows[part].max()) for part in chunks(rows))) < DARK:
        notes.append(f"no pixel is brighter than {most} of 255: stretch the levels first if these are not dark scenes")
    return notes
