"""Pictures made of pixels: instances side by side, heat maps."""

import io

import matplotlib as mpl
import numpy as np
from PIL import Image

from service.bundle import Array, ImageInput

TILE = 56
"""Pixels that a small image is enlarged to, about."""

GAP = 4
"""Transparent pixels between tiles: dark pictures on dark pages, and light ones on light pages, keep their edges."""


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG file: the same for the same pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def shades(x: Array, data: ImageInput) -> Array:
    """Instances (n, *data.shape) as RGB tiles, uint8 (n, height, width, 3), black from low to white at high."""
    levels = np.clip((x - data.low) / (data.high - data.low), 0, 1)
    tiles = np.round(255 * levels).astype(np.uint8).reshape(len(x), *data.shape[:2], -1)
    return np.broadcast_to(tiles, (*tiles.shape[:3], 3))


def heat(values: Array, highest: float) -> Array:
    """Numbers (n, height, width) as RGB tiles, dark at 0 to bright at `highest` and above."""
    colours = mpl.colormaps["inferno"](np.clip(values / highest, 0, 1))
    return np.round(255 * colours[..., :3]).astype(np.uint8)


def grid(tiles: Array, columns: int) -> bytes:
    """Tiles (n, height, width, 3) as a PNG picture, row by row, enlarged without blur where they are small."""
    scale = max(1, round(TILE / max(tiles.shape[1:3])))
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = tiles.shape[1:3]
    rows = -(-len(tiles) // columns)
    page = np.zeros((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 4), np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        page[top : top + height, left : left + width, :3] = tile
        page[top : top + height, left : left + width, 3] = 255
    return png(Image.fromarray(page))


def strip(colours: Array) -> bytes:
    """RGB tiles (1, width, 3), uint8, as a PNG picture of their own size."""
    return png(Image.fromarray(np.ascontiguousarray(colours)))
