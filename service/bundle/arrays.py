"""Arrays in .npz files: their names, kinds and sizes are read first, the numbers only if all of them are in order."""

import io
import math
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import BundleError

Array = npt.NDArray[Any]

MAX_ARRAYS = 256
"""Arrays in one file; a bundle with every graph has 60 in its golden rows."""

MAX_ARRAY_BYTES = 256 * 2**20
"""Bytes of all arrays in one file, unpacked."""

_ENTRY = b"PK\x01\x02"
"""The beginning of each entry of a ZIP file's directory."""

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_arrays(data: bytes, name: str) -> dict[str, Array]:
    """The arrays of an .npz file held in memory, which are numbers or truth values.

    Raises:
        BundleError: It is no such file, is damaged, or has more arrays or bytes than it may.
    """
    try:
        _check_members(data)
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except Exception as error:  # NumPy and zipfile raise a dozen kinds for damaged files.
        raise BundleError(f"{name}: not a readable .npz file: {error}") from error


def write_arrays(arrays: Mapping[str, Array]) -> bytes:
    """The bytes of an .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _check_members(data: bytes) -> None:
    if data.count(_ENTRY) > MAX_ARRAYS:  # Before the directory becomes objects.
        raise BundleError(f"more than {MAX_ARRAYS} arrays")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if len({member.filename.removesuffix(".npy") for member in members}) < len(members):
            raise BundleError("two arrays have the same name")
        if (size := sum(member.file_size for member in members)) > MAX_ARRAY_BYTES:
            raise BundleError(f"its arrays have {size:,} bytes; at most {MAX_ARRAY_BYTES:,} are read")
        for member in members:
            _check_member(archive, member)


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise BundleError(f"{member.filename!r} is packed in a way that NumPy does not use")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise BundleError(f"{member.filename!r} is an array of an unknown version, {version}")
        shape, _, dtype = _HEADERS[version](file)
        if dtype.kind not in "biuf":
            raise BundleError(f"Object arrays and texts are refused: {member.filename!r} holds no numbers")
        if file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
            raise BundleError(f"{member.filename!r} has another size than its shape, {shape}")
