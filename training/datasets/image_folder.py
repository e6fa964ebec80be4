"""A folder of PNG and JPEG files."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field, PositiveInt
from rich.console import Console
from rich.progress import track

from training.datasets.source import DataError, Dataset, Source, existing, image_dataset, reading, room

SUFFIXES = {".png", ".jpg", ".jpeg"}
COLOURS = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGB"}
"""The mode in which each of Pillow's modes is kept without loss, once its alpha is known to be opaque."""
MANY = 1000


class ImageFolder(Source):
    """Every `.png`, `.jpg` and `.jpeg` at any depth, ordered by path, but hidden ones; whole levels from 0 to 255.

    The images must all have one size and be all grey or all colour, unless the options make them so. Pixels are taken
    as stored: a JPEG's orientation tag is not applied.
    """

    kind: Literal["image_folder"] = "image_folder"
    size: tuple[PositiveInt, PositiveInt] | None = Field(
        default=None, description="Height and width to resize every image to, with antialiasing."
    )
    color: Literal["gray", "rgb"] | None = Field(default=None, description="What to convert every image to.")

    def load(self, path: Path | None) -> Dataset:
        folder = existing(path)
        files = sorted(file for file in folder.rglob("*") if _is_image(file.relative_to(folder)))
        if not files:
            raise DataError(f"{folder}: holds no .png, .jpg or .jpeg file")
        first = self._read(files[0])
        rows = room((len(files), *first.shape), np.uint8)
        progress = track(files, "Reading images", console=Console(stderr=True), disable=len(files) <= MANY)
        for row, file in zip(rows, progress, strict=True):
            image = self._read(file)
            if image.shape != first.shape:
                raise DataError(
                    f"{file}: {_kind(image)}, but {files[0]} is {_kind(first)}; "
                    "the options size and color make all images alike"
                )
            row[...] = image
        return image_dataset(folder, rows)

    def _read(self, file: Path) -> npt.NDArray[Any]:
        """One image, uint8: (height, width) if grey, (height, width, 3) if in colour."""
        with reading(file), Image.open(file) as image:
            if image.mode not in COLOURS:
                raise DataError(f"{file}: mode {image.mode} is neither 8-bit grey nor 8-bit RGB")
            if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
                raise DataError(f"{file}: has transparent pixels, whose colour depends on the background")
            pixels = image.convert(COLOURS[image.mode])
        if self.color is not None:
            pixels = pixels.convert({"gray": "L", "rgb": "RGB"}[self.color])
        if self.size is not None:
            pixels = pixels.resize(self.size[::-1], Image.Resampling.LANCZOS)
        return np.asarray(pixels)


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in file.parts)


def _kind(image: npt.NDArray[Any]) -> str:
    height, width, *channels = image.shape
    return f"{height} × {width} {'RGB' if channels else 'grey'}"
