"""Small files that a user names: keys, recipes, schemas."""

import errno
from pathlib import Path

MAX_BYTES = 4 * 2**20


def read_small_file(path: Path) -> bytes:
    """The contents of a file, which may be a pipe, as that of a command that decrypts a key.

    Raises:
        OSError: It cannot be read, or has more than `MAX_BYTES`: a device may have no end.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"at most {MAX_BYTES:,} bytes are read", str(path))
    return data
