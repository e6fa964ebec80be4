"""Arrays in .npz files: names and sizes are read first, numbers only if they are of the kind and size that is said."""

import io
import math
import re
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from service.errors import BundleError, InvalidError, MalformedError

Array = npt.NDArray[Any]

MAX_ARRAYS = 256
"""Arrays in one file; a bundle with every graph has 60 in its golden rows."""

MAX_ARRAY_BYTES = 256 * 2**20
"""Bytes of all arrays in one file, unpacked."""

_ENTRY = b"PK\x01\x02"
"""The beginning of each entry of a ZIP file's directory."""

_LENGTHS = {(1, 0): 2, (2, 0): 4}
"""Bytes of the length of an array's header, by the version of the format."""

_MAX_HEADER = 10_000
"""Bytes of the dictionary in the header of an `.npy` array: NumPy's own limit."""

_FIELD = re.compile(
    r"""\s*['"](?:
    descr['"]\s*:\s*['"](?P<descr>[<>|=]?[A-Za-z?][\w\[\]]{0,20})['"]
    |fortran_order['"]\s*:\s*(?P<fortran_order>True|False)
    |shape['"]\s*:\s*(?P<shape>\((?:\s*-?\d{1,80}L?\s*,)*(?:\s*-?\d{1,80}L?\s*)?\))
    )\s*(?:,\s*|$)""",
    re.VERBOSE | re.ASCII,
)
_FIELDS = re.compile(rb"""['"]descr['"]\s*:\s*[\[(]""")
_OBJECTS = re.compile(rb"""['"]\|?O\d?['"]""")


def read_arrays(data: bytes, name: str) -> dict[str, Array]:
    """The arrays of an .npz file held in memory, which are numbers or truth values.

    Raises:
        BundleError: It is no such file, is damaged, or has more arrays or bytes than it may.
    """
    try:
        with _open(data) as archive:
            return {member.filename.removesuffix(".npy"): _read(archive, member) for member in _checked(archive)}
    except Exception as error:  # NumPy and zipfile raise a dozen kinds for damaged files.
        raise BundleError(f"{name}: not a readable .npz file: {error}") from error


def write_arrays(arrays: Mapping[str, Array]) -> bytes:
    """The bytes of an .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _open(data: bytes) -> zipfile.ZipFile:
    if data.count(_ENTRY) > MAX_ARRAYS:  # Before the directory becomes objects.
        raise BundleError(f"more than {MAX_ARRAYS} arrays")
    return zipfile.ZipFile(io.BytesIO(data))


def _checked(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members of a file, whose names differ and whose sizes are allowed."""
    members = archive.infolist()
    if len({member.filename.removesuffix(".npy") for member in members}) < len(members):
        raise BundleError("two arrays have the same name")
    if (size := sum(member.file_size for member in members)) > MAX_ARRAY_BYTES:
        raise BundleError(f"its arrays have {size:,} bytes; at most {MAX_ARRAY_BYTES:,} are read")
    for member in members:
        if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise BundleError(f"{member.filename!r} is packed in a way that NumPy does not use")
    return members


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as file:
        shape, fortran, dtype = read_npy_header(file)
        if dtype.kind not in "biuf":
            raise BundleError(f"Object arrays and texts are refused: {member.filename!r} holds no numbers")
        if file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
            raise BundleError(f"{member.filename!r} has another size than its shape, {shape}")
        return np.frombuffer(bytearray(file.read()), dtype).reshape(shape, order="F" if fortran else "C")


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype of an `.npy` array, whose file is then at the first number.

    NumPy reads the dictionary by Python's parser, which in 3.11 fails in one thread where another parses too.

    Raises:
        ValueError: It is not the header of an array.
        MalformedError: The array has fields of Python objects.
        InvalidError: It has other fields.
    """
    version = np.lib.format.read_magic(file)
    if version not in _LENGTHS:
        raise ValueError(f"format {version} of .npy is not read")
    size = int.from_bytes(file.read(_LENGTHS[version]), "little")
    header = file.read(min(size, _MAX_HEADER + 1))
    if len(header) > _MAX_HEADER:
        raise ValueError(f"{size:,} bytes of header; at most {_MAX_HEADER:,} are read")
    if len(header) < size:
        raise ValueError(f"EOF: {len(header):,} bytes of header, {size:,} expected")
    if _FIELDS.search(header):
        if _OBJECTS.search(header):
            raise MalformedError("an .npy array of Python objects (pickled): send plain numbers")
        raise InvalidError("must be a plain array with one instance per entry, not one with fields")
    text = header.decode("latin-1").strip()
    found: dict[str, str] = {}
    place, end = 1, len(text) - 1
    while entry := _FIELD.match(text, place, end):
        found |= {name: value for name, value in entry.groupdict().items() if value is not None}
        place = entry.end()
    if text[:1] + text[-1:] != "{}" or place != end or len(found) < 3:
        raise ValueError(f"no plain array's header: {text[:200]!r}")
    shape = tuple(int(size) for size in re.findall(r"-?\d+", found["shape"]))
    return shape, found["fortran_order"] == "True", np.dtype(found["descr"])
