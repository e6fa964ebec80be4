"""A file that a user names is written whole, or is as it was."""

import os
import resource
import sys
from pathlib import Path

import pytest

from service.small_files import replace_file


@pytest.mark.skipif(sys.platform != "linux", reason="a full disk is a limit of Linux here")
def test_a_full_disk_leaves_a_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    replace_file(path, b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, limits[1]))
    try:
        with pytest.raises(OSError, match=f"File too large: '{path}'$"):
            replace_file(path, b"after")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [(file.name, file.read_bytes()) for file in path.parent.iterdir()] == [("report.json", b"before")]


def test_the_file_is_named_where_its_folder_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "new" / "report.json"
    with pytest.raises(NotADirectoryError, match=f"'{path}'$"):
        replace_file(path, b"")


def test_a_device_and_a_link_stay_what_they_are(tmp_path: Path) -> None:
    (file := tmp_path / "file").write_bytes(b"before")
    (link := tmp_path / "link").symlink_to(file)
    (null := tmp_path / "null").symlink_to(os.devnull)
    reader, writer = os.pipe()
    for path in (link, null, Path(f"/proc/self/fd/{writer}")):
        replace_file(path, b"after")
    assert link.is_symlink()
    assert null.is_symlink()
    assert (file.read_bytes(), os.read(reader, 9)) == (b"after", b"after")
    os.close(reader)
    os.close(writer)
