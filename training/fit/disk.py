"""Files of a run: each is written whole or not at all, and an error names it."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all; `write` writes one at the path that it is given.

    Raises:
        OSError: It cannot be written; names the file.
    """
    temporary = path.with_name(path.name + ".new")
    with to_disk(path):
        write(temporary)
        temporary.replace(path)


@contextlib.contextmanager
def to_disk(path: Path) -> Iterator[None]:
    """Turn every error of writing into an `OSError` that names the path; torch and safetensors have other kinds."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OSError(f"{path}: cannot be written: {error}") from error
