"""The codecs of every body and every answer, by media type."""

import io
from typing import ClassVar

from PIL import Image

from service.codecs.arrow import read_stream, write_stream
from service.codecs.codec import Columns, Reader, Writer
from service.codecs.json import Json
from service.codecs.npy import Npy
from service.codecs.text import write_text
from service.errors import MalformedError, TooLargeError
from service.readers.arrays import GZIP, NPY, ZIP, Levels, is_idx, plain_numbers, read_idx, read_npz
from service.readers.files import TextBytes
from service.readers.pictures import MEDIA_TYPES, PictureBytes, foreign, is_picture

MAX_UNPACKED = 2**28
"""Most bytes that a client's compressed array may unpack to."""

MAX_MEMBERS = 1000
"""Most files of an archive that are looked through."""


class Arrow:
    """An Arrow IPC stream: fixed-size lists are an array, columns by name records; out, a column for each field."""

    media_type: ClassVar[str] = "application/vnd.apache.arrow.stream"
    records: ClassVar[bool] = True
    quick_bytes: ClassVar[int] = 2**13  # It may unpack to much more.
    quick_numbers: ClassVar[int] = 2**16

    def decode(self, body: bytes, field: str) -> object:
        return read_stream(body, field)

    def encode(self, columns: Columns) -> bytes:
        return write_stream(columns)


class Csv:
    """Text with a header, read as the manifest says of files; out, a column for each number."""

    media_type: ClassVar[str] = "text/csv"
    records: ClassVar[bool] = True
    quick_bytes: ClassVar[int] = 2**13
    quick_numbers: ClassVar[int] = 2**16

    def decode(self, body: bytes, field: str) -> object:
        return TextBytes(body)

    def encode(self, columns: Columns) -> bytes:
        return write_text(columns)


class PictureFile:
    """A picture in any format that is read, whichever of their media types it is sent as."""

    media_type: ClassVar[str] = "image/png"
    quick_bytes: ClassVar[int] = 2**13

    def decode(self, body: bytes, field: str) -> object:
        return PictureBytes(body)


class AnyFile:
    """A file whose content says what it is: a picture, an IDX file, plain or gzipped, `.npy` or `.npz`."""

    media_type: ClassVar[str] = "application/octet-stream"
    quick_bytes: ClassVar[int] = 2**13

    def decode(self, body: bytes, field: str) -> object:
        if is_picture(body[:12]):
            return PictureBytes(body)
        if body.startswith(NPY):
            return Npy().decode(body, field)
        if body.startswith(ZIP):
            if (members := body.count(b"PK\x01\x02")) > MAX_MEMBERS:
                raise TooLargeError(f"an archive of {members:,} files; at most {MAX_MEMBERS:,} are looked through")
            return plain_numbers(read_npz(io.BytesIO(body), limit=MAX_UNPACKED))
        if body.startswith(GZIP) or is_idx(body[:4]):
            return Levels(read_idx(body, MAX_UNPACKED))
        unknown = "is no PNG, JPEG, WebP, TIFF, BMP or GIF picture, and no IDX, .npy or .npz file"
        raise MalformedError(foreign(body) or unknown)


class Png:
    """A PNG picture, out: the only column is uint8 of shape (height, width) or (height, width, 3)."""

    media_type: ClassVar[str] = "image/png"
    records: ClassVar[bool] = False
    quick_numbers: ClassVar[int] = 2**16

    def encode(self, columns: Columns) -> bytes:
        (pixels,) = columns.values()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        return buffer.getvalue()


CODECS = (Json(), Npy(), Arrow())
"""The codecs of every body and every answer, the preferred first."""

TABLE_CODECS = (Csv(),)
"""The codecs of every answer, and of bodies of instances."""

READERS: dict[str, Reader] = {codec.media_type: codec for codec in CODECS}
"""Readers of any field."""

FILE_READERS: dict[str, Reader] = {
    **{codec.media_type: codec for codec in TABLE_CODECS},
    **dict.fromkeys(MEDIA_TYPES, PictureFile()),
    AnyFile.media_type: AnyFile(),
}
"""Readers of instances only."""

ALL_READERS = READERS | FILE_READERS

WRITERS: dict[str, Writer] = {codec.media_type: codec for codec in (*CODECS, *TABLE_CODECS, Png())}

ANSWERS = tuple(codec.media_type for codec in (*CODECS, *TABLE_CODECS))
"""The media types of every answer."""
