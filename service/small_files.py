"""Small files that a user names: keys, recipes, schemas, reports."""

import errno
from contextlib import suppress
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


def replace_file(path: Path, data: bytes, *, follow: bool = True) -> None:
    """Write a file whole or not at all, in a new folder if need be.

    A link, a pipe or a device is written to as usual; it is replaced if it is not to be followed.

    Raises:
        OSError: It cannot be written; names the file, which is as it was.
    """
    usual = follow and (path.is_symlink() or (path.exists() and not path.is_file()))
    written = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if usual:
            path.write_bytes(data)
            return
        written.unlink(missing_ok=True)
        with written.open("xb") as file:  # Through no link of another user.
            file.write(data)
        written.replace(path)
    except OSError as error:
        if not usual:
            with suppress(OSError):
                written.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error
