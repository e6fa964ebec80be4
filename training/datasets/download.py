"""Data at a URL, on this machine for as long as it is read."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fsspec.core import url_to_fs

from service.errors import FileError


@contextmanager
def download(place: Path | str | None) -> Iterator[Path | None]:
    """The path of the data: of what lies at a URL a copy's, a file or a folder, which is removed afterwards.

    Raises:
        FileError: It cannot be copied. Whatever else is raised of that kind meanwhile names the URL, not the copy.
    """
    if place is None or isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="lowerbound-data-") as folder:
        url = place.rstrip("/")
        copy = Path(folder, url.rpartition("/")[2])
        try:
            system, path = url_to_fs(url)
            system.get(path, str(copy), recursive=True)
        except Exception as error:  # Every driver has its own kinds, and those of its HTTP library.
            raise FileError(f"{url}: cannot be read: {error or type(error).__name__}") from error
        try:
            yield copy
        except FileError as error:
            raise FileError(str(error).replace(str(copy), url)) from error
