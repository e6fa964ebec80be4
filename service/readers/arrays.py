"""Arrays: IDX and NumPy files, read by one rule for training, bulk, the endpoints and the explorer."""

import gzip
import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any

import numpy as np

from service.bundle import Array, read_npy_header
from service.errors import InvalidError, MalformedError, RequestError, TooLargeError

GZIP = b"\x1f\x8b"
ZIP = b"PK\x03\x04"
NPY = b"\x93NUMPY"

_UNSIGNED_BYTE = 0x08
_ENCRYPTED = 1


@dataclass(frozen=True, eq=False)
class Levels:
    """Pictures in levels from 0 (black) to 255 (white), in any model's units of pixels.

    Attributes:
        values: uint8, (pictures, height, width) or (pictures, height, width, channels).
    """

    values: Array

    def __len__(self) -> int:
        return len(self.values)


def read_npy(body: bytes) -> Array:
    """The array in an `.npy` file, format 1.0 or 2.0: a view of the bytes.

    Raises:
        MalformedError: The file is damaged, in another format, or holds Python objects.
        InvalidError: It holds a single value, or records.
    """
    size = _header_size(body)
    shape, fortran, dtype = _read_header(body[:size])
    if dtype.hasobject:
        raise MalformedError("an .npy array of Python objects (pickled): send plain numbers")
    if not shape:
        raise InvalidError("must be a plain array with one instance per entry, not a single value")
    expected = math.prod(shape) * dtype.itemsize
    if len(body) - size != expected:
        raise MalformedError(f"not a readable .npy array: {len(body) - size} bytes of data, {expected} expected")
    try:
        return np.frombuffer(body, dtype, offset=size).reshape(shape, order="F" if fortran else "C")
    except (ValueError, TypeError) as error:  # Shapes and dtypes that a header can say and no array can have.
        raise MalformedError(f"not a readable .npy array: {error}") from error


def _header_size(body: bytes) -> int:
    """Bytes up to the data, for the two versions of the format that plain arrays come in."""
    end = 12 if body.startswith(b"\x93NUMPY\x02") else 10
    return end + int.from_bytes(body[8:end], "little")


# Headers take longer to parse than a small array to compute with; clients send the same few.


@lru_cache(maxsize=256)
def _read_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype."""
    try:
        return read_npy_header(io.BytesIO(header))
    except RequestError:
        raise
    except Exception as error:  # NumPy raises several kinds for types that there are not.
        raise MalformedError(f"not a readable .npy array: {error}") from error


def plain_numbers(array: Array) -> Array:
    """The array in C order and the machine's own byte order; booleans are 0 and 1."""
    dtype = np.dtype(np.uint8) if array.dtype.kind == "b" else array.dtype.newbyteorder("=")
    return array.astype(dtype, order="C", copy=False)


def is_idx(head: bytes) -> bool:
    """Whether a plain file that begins so, in 4 bytes or more, is an IDX file of pictures."""
    return head[:3] == bytes([0, 0, _UNSIGNED_BYTE]) and head[3:4] in {b"\3", b"\4"}


def read_idx(body: bytes, limit: int | None = None) -> Array:
    """The array in an IDX file, plain or gzipped, uint8.

    The format is two zero bytes, type, number of dimensions, big-endian sizes, values.

    Raises:
        MalformedError: The file is damaged, or in another format.
        InvalidError: Its values are not unsigned bytes.
        TooLargeError: It unpacks to more than `limit`.
    """
    if body.startswith(GZIP):
        body = _gunzip(body, limit)
    if len(body) < 4 or body[:2] != b"\0\0":
        raise MalformedError(f"not an IDX file: it begins with {body[:4].hex(' ') or 'nothing'}, not 00 00 08")
    if body[2] != _UNSIGNED_BYTE:
        raise InvalidError(f"values of IDX type 0x{body[2]:02x}; only unsigned bytes (0x08) are images")
    start = 4 + 4 * body[3]
    if len(body) < start:
        raise MalformedError(f"truncated within its header: {len(body)} bytes of {start}")
    shape = tuple(int(size) for size in np.frombuffer(body[4:start], ">u4"))
    found, wanted = len(body) - start, math.prod(shape)
    if found < wanted:
        raise MalformedError(f"truncated: {found} of the {wanted} values of shape {shape}")
    if found > wanted:
        raise MalformedError(f"{found - wanted} trailing bytes after the {wanted} values of shape {shape}")
    try:
        return np.frombuffer(body, np.uint8, offset=start).reshape(shape)
    except ValueError as error:  # None of one size, and more of the others than there are numbers.
        raise MalformedError(f"no array has the shape {shape}") from error


def read_npz(file: IO[bytes], name: str | None = None, limit: int | None = None) -> Array:
    """One array of an `.npz` file: the one of that name; else the one named `X` or `x`, else the only one.

    Raises:
        MalformedError: The file is damaged, or holds Python objects.
        InvalidError: It has no such array, or several of which none is named `X`.
        TooLargeError: The array unpacks to more than `limit`.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            member = members[_choose(list(members), name)]
            if member.flag_bits & _ENCRYPTED or member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise MalformedError(f"{member.filename} is encrypted, or packed in a way that NumPy does not use")
            if limit is not None:
                _check_size(member.file_size, limit)
            with archive.open(member) as unpacked:
                return read_npy(unpacked.read())
    except (ValueError, KeyError, EOFError, OSError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise MalformedError(f"cannot be read: {error}") from error


def _choose(names: list[str], asked: str | None) -> str:
    found = [name for name in ((asked,) if asked else ("X", "x")) if name in names]
    if asked and not found:
        raise InvalidError(f"holds no {asked!r} but {', '.join(names)}")
    found = found or names
    if len(found) != 1:
        raise InvalidError(f"holds {', '.join(names) or 'nothing'}; name one array X, or save one as .npy")
    return found[0]


def _gunzip(body: bytes, limit: int | None) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
            plain = file.read() if limit is None else file.read(limit + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise MalformedError(f"cannot be read: {error}") from error
    if limit is not None:
        _check_size(len(plain), limit)
    return plain


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise TooLargeError(f"unpacks to more than {limit:,} bytes, which is all that is read")
