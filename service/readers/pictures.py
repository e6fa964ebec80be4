"""Pictures: an image file becomes an instance, by one rule for training, bulk, the endpoints and the explorer.

- The format is found by content: PNG, JPEG, WebP, TIFF, BMP or GIF, of one frame.
- Pixels stand upright, as the file's orientation tag says.
- Two levels, grey and 16-bit grey become 8-bit grey; a 16-bit level keeps its upper 8 bits. Everything else becomes
  RGB. Colour profiles are not applied.
- Opaque alpha is dropped. A picture with transparent pixels needs a background.
- Grey becomes RGB, and RGB with three equal channels becomes grey, where the model's pictures are so.
- Black is the model's lowest value and white its highest.
"""

import io
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from service.bundle import Array, ImageInput
from service.errors import InvalidError, MalformedError, RequestError, TooLargeError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
MEDIA_TYPES = tuple(f"image/{name.lower()}" for name in FORMATS)

MAX_PIXELS = 2**25
"""Most pixels of a picture, in a file of any size."""

MAX_SCANS = 32
"""Most scans of a JPEG picture; each takes as long as the pixels are many, and few bytes."""

MAX_STRIPS = 2**13
"""Most strips or tiles of a TIFF picture; Pillow takes 25 microseconds for each, of two bytes."""

MAX_PROFILES = 4
"""Most colour profiles of a PNG picture; each may unpack to a mebibyte."""

_JPEG, _PNG, _TIFF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", (b"II*\0", b"MM\0*")
_SCAN = b"\xff\xda"
_MAGIC = (_JPEG, _PNG, *_TIFF, b"BM", b"GIF87a", b"GIF89a")
_FOREIGN = {
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\0\0\1\0": "ICO",
    b"8BPS": "Photoshop",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<?xml": "SVG or another XML",
    b"SIMPLE  =": "FITS",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
}
_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC", b"hevc": "HEIC", b"avif": "AVIF"}
"""Other formats of pictures, by how they begin, and those of a phone by the brand at byte 8."""

_GRAY = frozenset({"1", "L", "LA", "I;16", "I;16L", "I;16B"})
_RGB = frozenset({"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"})
_ORIENTATION = 0x0112
_STRIP_OFFSETS = frozenset({273, 324})
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PLACE = "instances[0]"


def is_picture(head: bytes) -> bool:
    """Whether a file that begins so, in 12 bytes or more, is in one of the formats."""
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def foreign(body: bytes) -> str | None:
    """Say what a file in none of the formats is, and what to do with it; None: that is not known."""
    if not body:
        return "is empty"
    kind = next((kind for magic, kind in _FOREIGN.items() if body.startswith(magic)), None)
    if body[4:8] == b"ftyp":
        kind = _BRANDS.get(body[8:12], "video")
    elif body[128:132] == b"DICM":
        kind = "DICOM"
    return f"is {kind}, which is not read; save the picture as PNG or JPEG" if kind else None


QUICK_BYTES, QUICK_PIXELS = 2**14, 2**18
"""Most bytes of a file, and most pixels of all its scans, that are decoded within some ten milliseconds."""


def is_quick_picture(body: bytes) -> bool:
    """Whether a file of any content is decoded within some ten milliseconds.

    No TIFF is: its library writes what is wrong with one to standard error.
    """
    if len(body) > QUICK_BYTES or body.startswith(_TIFF):
        return False
    try:
        picture = Picture(body)
    except RequestError:
        return True
    return picture.height * picture.width * max(1, body.count(_SCAN)) <= QUICK_PIXELS


@dataclass(frozen=True, eq=False)
class PictureBytes:
    """A picture file as it was sent, of which nothing is read yet.

    Attributes:
        body: The file.
    """

    body: bytes


class Picture:
    """A picture whose header is read and checked, and whose pixels are not decoded yet.

    Attributes:
        height: In pixels, upright.
        width: In pixels, upright.
        is_gray: Whether it has levels of grey only, by its header.
        is_deep: Whether it has 16-bit levels of grey, of which the upper 8 bits are kept.
    """

    def __init__(self, body: bytes) -> None:
        """Open an image file.

        Raises:
            MalformedError: The file is damaged, or in another format.
            InvalidError: It has several frames, or pixels of a kind that is not read.
            TooLargeError: It has too many pixels, scans or metadata.
        """
        if not is_picture(body[:12]):
            raise MalformedError(foreign(body) or "is no PNG, JPEG, WebP, TIFF, BMP or GIF picture")
        file = _LimitedFile(body)
        try:
            _check_parts(body)
            self._image = Image.open(file, formats=FORMATS)
            self._check()
            turn = self._orientation()
        except Exception as error:  # Pillow raises several kinds for damaged files.
            if isinstance(error, UnidentifiedImageError) and body.startswith(_TIFF):
                raise MalformedError(
                    "is a damaged TIFF picture, or has bands or values that are not read; save it as 8-bit grey or RGB"
                ) from error
            raise _problem(error) from error
        self._turn = _TURNS.get(turn)
        width, height = self._image.size
        self.height, self.width = (width, height) if turn in {5, 6, 7, 8} else (height, width)
        self.is_gray = self._image.mode in _GRAY
        self.is_deep = self._image.mode.startswith("I;16")
        file.remaining_reads, file.remaining_bytes = _MAX_READS, None

    def _check(self) -> None:
        """Refuse what cannot be read, of which no pixel has been made yet."""
        image = self._image
        if image.width * image.height > MAX_PIXELS:
            raise TooLargeError(f"{image.width:,} × {image.height:,} pixels; at most {MAX_PIXELS:,} are read", _PLACE)
        if any(tile[0] == "bmp_rle" for tile in image.tile):  # Pillow decodes these in Python.
            raise InvalidError("is a run-length encoded BMP picture; save it as PNG", _PLACE)
        # A phone's MPO file is a JPEG picture with a second one behind it.
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise InvalidError("has several frames; save the one that counts as a picture of its own", _PLACE)
        if image.mode not in _GRAY | _RGB:
            raise InvalidError(f"has pixels of mode {image.mode}; save it as 8-bit grey or RGB", _PLACE)

    def _orientation(self) -> int:
        image = self._image
        if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
            return 1  # Pillow turns TIFF pictures itself, and would decode the pixels of a PNG picture to look further.
        try:
            return int(image.getexif().get(_ORIENTATION, 1))
        except Exception:  # Damaged metadata: every viewer shows such a picture as it is stored.
            return 1

    def levels(self, background: str | None) -> Image.Image:
        """The upright pixels, in mode L or RGB.

        Args:
            background: The colour that lies behind transparent pixels.

        Raises:
            MalformedError: The file is damaged.
            InvalidError: It has transparent pixels, and there is no background.
        """
        try:
            image = _eight_bits(self._image) if self.is_deep else self._image
            if image.has_transparency_data:
                image = image.convert("RGBA")
                if image.getchannel("A").getextrema() != (255, 255):
                    image = _put_on(background, image)
            image = image.convert("L" if self.is_gray else "RGB")
        except Exception as error:  # Pillow raises several kinds for damaged files.
            raise _problem(error) from error
        return image if self._turn is None else image.transpose(self._turn)

    def instances(self, data: ImageInput) -> Array:
        """The picture as the model's graphs take it, shape (1, *data.shape), in data units.

        Raises:
            MalformedError: The file is damaged.
            InvalidError: The picture has another size or colours, and the model's recipe does not change them; or it
                has transparent pixels, and the recipe has no background.
        """
        (height, width), reading = data.shape[:2], data.reading
        if (self.height, self.width) != (height, width) and reading.resample is None:
            raise InvalidError(
                f"has {self.height} × {self.width} pixels (height × width), and the model's pictures have {height} × "
                f"{width}; only a model trained with --dataset.size resizes pictures",
                _PLACE,
            )
        image = self.levels(reading.background)
        mode = "RGB" if data.shape[2:] == (3,) else "L"
        if (image.mode, mode) == ("RGB", "L") and not (reading.to_gray or _has_equal_channels(image)):
            raise InvalidError(
                "has colours, and the model's pictures are grey; only a model trained with --dataset.color gray makes "
                "pictures grey",
                _PLACE,
            )
        image = image.convert(mode)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        return in_data_units(np.asarray(image), data).reshape(1, *data.shape)


def in_data_units(levels: Array, data: ImageInput) -> Array:
    """Levels from 0 to 255, uint8 of any shape, between the model's black and its white, of the manifest's dtype."""
    if data.dtype == "uint8" and (data.low, data.high) == (0, 255):
        return levels
    values = data.low + levels * ((data.high - data.low) / 255)
    return np.rint(values).astype(np.uint8) if data.dtype == "uint8" else values.astype(np.float32)


_MAX_READS = 2**15
"""Most reads of a file; Pillow makes two or three for each piece of it, a chunk or a block."""


def _check_parts(body: bytes) -> None:
    """Refuse a file whose parts would take long to look at, before Pillow does."""
    if body.startswith(_JPEG):
        count, most, parts = body.count(_SCAN), MAX_SCANS, "scans"
    elif body.startswith(_PNG):
        count, most, parts = body.count(b"iCCP"), MAX_PROFILES, "colour profiles"
    elif body.startswith(_TIFF):
        count, most, parts = _count_strips(body), MAX_STRIPS, "strips or tiles"
    else:
        return
    if count > most:
        raise TooLargeError(f"has {count:,} {parts}; at most {most:,} are read", _PLACE)


def _count_strips(body: bytes) -> int:
    """The strips, or tiles, of a TIFF file's first picture."""
    order = "<" if body.startswith(b"I") else ">"
    (start,) = struct.unpack_from(f"{order}I", body, 4)
    (tags,) = struct.unpack_from(f"{order}H", body, start)
    entries = struct.iter_unpack(f"{order}HHII", body[start + 2 : start + 2 + 12 * tags])
    return sum(count for tag, _, count, _ in entries if tag in _STRIP_OFFSETS)


class _LimitedFile(io.BytesIO):
    """A file that says when Pillow takes too long to find the pixels among the metadata, or to put them together."""

    remaining_reads: int = 2**12
    remaining_bytes: int | None = 2**22

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.remaining_reads -= 1
        if self.remaining_bytes is not None and data[8:12] != b"WEBP" and size not in {-1, None}:
            self.remaining_bytes -= len(data)
        if self.remaining_reads < 0 or (self.remaining_bytes is not None and self.remaining_bytes < 0):
            raise TooLargeError("too much metadata, or too many pieces; save the picture anew without them", _PLACE)
        return data


def _eight_bits(image: Image.Image) -> Image.Image:
    """The upper 8 bits of 16-bit levels, 0 being black; with alpha, where one level stands for transparency."""
    levels = np.asarray(image)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        levels = ~levels  # Pillow does so for 8 bits alone.
    gray = Image.fromarray((levels >> 8).astype(np.uint8))
    if (key := image.info.get("transparency")) is not None:
        gray.putalpha(Image.fromarray(np.where(levels == key, 0, 255).astype(np.uint8)))
    return gray


def _put_on(background: str | None, image: Image.Image) -> Image.Image:
    if background is None:
        raise InvalidError(
            "has transparent pixels, whose colour depends on the background; only a model trained with "
            "--dataset.background white (or black) takes them",
            _PLACE,
        )
    return Image.alpha_composite(Image.new("RGBA", image.size, background), image)


def _has_equal_channels(image: Image.Image) -> bool:
    pixels = np.asarray(image)
    return bool((pixels == pixels[..., :1]).all())


def _problem(error: Exception) -> RequestError:
    match error:
        case RequestError():
            return error
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            return TooLargeError(f"too many pixels; at most {MAX_PIXELS:,} are read", _PLACE)
        # Their texts name an object in memory, or a call in Python.
        case UnidentifiedImageError() | struct.error():
            return MalformedError("is damaged: its header cannot be read")
        case _:
            return MalformedError(f"is damaged: {error}")
