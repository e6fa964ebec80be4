"""Data at a URL: the same as on this machine, named by its URL, and gone from here afterwards."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.errors import FileError
from tests.training.datasets.files import FILES, source_of, write
from training.datasets import Table, download


@pytest.mark.parametrize(("kind", "make"), FILES.items())
def test_data_at_a_url_is_what_it_is_on_this_machine(
    kind: str, make: Callable[[Path], Path | None], tmp_path: Path
) -> None:
    place, source = make(tmp_path), source_of(kind)
    with download(place) as path:
        assert path == place
        fingerprint = source.load(path).fingerprint
    with download(place and place.as_uri()) as path:
        assert (path == place) == (place is None)
        assert source.load(path).fingerprint == fingerprint
    assert path is None or not path.parent.exists()


def test_what_is_wrong_names_the_url(tmp_path: Path) -> None:
    url = write(tmp_path / "t.csv", "a,b\n1,2\n2,3,4\n").as_uri()
    with (
        pytest.raises(FileError, match=f"^{url}, row 2: line 3 has 3 cells"),
        download(url) as path,
    ):
        Table().load(path)


@pytest.mark.parametrize(
    ("url", "said"),
    [("file:///nowhere/t.csv", "/nowhere/t.csv"), ("nosuch://t.csv", "Protocol not known"), ("gs://b/t.csv", "gcsfs")],
)
def test_what_cannot_be_copied_is_named(url: str, said: str) -> None:
    with pytest.raises(FileError, match=f"^{url}: cannot be read: .*{said}"), download(url):
        pass
