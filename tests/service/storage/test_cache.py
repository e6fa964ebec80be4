"""Bundles at a URL: downloaded once, verified, never half-read; what is out of reach goes on being served."""

import fcntl
import os
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fsspec.implementations.local import LocalFileSystem

from service.bundle import MANIFEST, SIGNATURE, TrustedKeys, read_bundle, versions
from service.errors import BundleError, ExtraError, LowerboundError, StorageError
from service.storage import BundleRef
from service.storage.cache import CachedStore
from service.storage.remote import RemoteStore
from tests.conftest import wait_until
from tests.service.bundle_versions import NAME, edit, publish

until = partial(wait_until, seconds=60)

FIRST, SECOND = BundleRef(NAME, 1), BundleRef(NAME, 2)
DIGITS = BundleRef("digits", 1)


@pytest.fixture
def mirror(there: Path, tmp_path: Path) -> CachedStore:
    return CachedStore(there.as_uri(), tmp_path / "cache")


def test_what_is_mirrored_is_a_repository(mirror: CachedStore, there: Path) -> None:
    assert list(mirror.list_bundles()) == [FIRST]
    folder = mirror.fetch(FIRST)
    assert read_bundle(folder).digest == read_bundle(there / NAME / "1").digest
    assert versions(mirror.folder) == {NAME: [1]}


def test_what_is_kept_is_not_downloaded_again(mirror: CachedStore, there: Path) -> None:
    mirror.list_bundles()
    mirror.fetch(FIRST)
    for path in (there / NAME / "1").iterdir():
        if path.name != MANIFEST:
            path.write_bytes(bytes(path.stat().st_size))
    again = CachedStore(there.as_uri(), mirror.folder.parent)
    assert again.folder == mirror.folder
    again.list_bundles()
    read_bundle(again.fetch(FIRST))


def test_what_has_gone_bad_where_it_is_kept_is_downloaded_again(mirror: CachedStore) -> None:
    mirror.list_bundles()
    path = mirror.fetch(FIRST) / "elbo.onnx"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(BundleError, match="SHA-256"):
        read_bundle(mirror.folder / NAME / "1")
    read_bundle(mirror.fetch(FIRST))


def test_a_copied_version_is_not_downloaded(mirror: CachedStore, there: Path) -> None:
    shutil.copytree(there / NAME / "1", there / NAME / "2")
    mirror.list_bundles()
    with pytest.raises(BundleError, match=f"^{NAME}/2: the manifest is that of {NAME} 1; `lowerbound promote` makes"):
        mirror.fetch(SECOND)
    assert not list(mirror.folder.glob("*/*"))


def test_what_is_gone_is_forgotten_when_something_is_left(mirror: CachedStore, there: Path) -> None:
    publish(there, 2)
    mirror.list_bundles()
    mirror.fetch(FIRST)
    mirror.fetch(SECOND)
    (mirror.folder / NAME / ".3-killed").mkdir()
    shutil.rmtree(there / NAME / "1")
    mirror.list_bundles()
    assert [path.name for path in (mirror.folder / NAME).iterdir()] == ["2"]
    shutil.rmtree(there / NAME / "2")
    assert mirror.list_bundles() == {}
    assert versions(mirror.folder) == {NAME: [2]}


def test_a_bundle_is_there_once_its_manifest_is(mirror: CachedStore, there: Path) -> None:
    publish(there, 2)
    (there / NAME / "2" / MANIFEST).rename(there / NAME / "manifest.json")
    for name in ("0", "01", "-1", "latest", ".3-abc"):
        shutil.copytree(there / NAME / "1", there / NAME / name)
    assert list(mirror.list_bundles()) == [FIRST]
    (there / NAME / "manifest.json").rename(there / NAME / "2" / MANIFEST)
    assert list(mirror.list_bundles()) == [FIRST, SECOND]


def test_a_changed_manifest_is_noticed(mirror: CachedStore, there: Path) -> None:
    before = mirror.list_bundles()
    assert mirror.list_bundles() == before
    shutil.rmtree(there / NAME / "1")
    other = publish(there, 1, made=100)
    (fingerprint,) = mirror.list_bundles().values()
    assert fingerprint.digest == other.digest
    assert read_bundle(mirror.fetch(FIRST)).digest == other.digest


def truncate(path: Path) -> str:
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    return f"{len(data) - 1} bytes; the manifest says {len(data)}$"


def extend(path: Path) -> str:
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b" ")
    return f"{size + 1} bytes; the manifest says {size}"


def tamper(path: Path) -> str:
    path.write_bytes(path.read_bytes()[::-1])
    return "SHA-256 is .*; the manifest says "


def remove(path: Path) -> str:
    path.unlink()
    return "is not there$"


@pytest.mark.parametrize("damage", [truncate, extend, tamper, remove])
def test_what_is_not_as_the_manifest_says_is_refused(
    mirror: CachedStore, there: Path, damage: Callable[[Path], str]
) -> None:
    said = damage(there / NAME / "1" / "elbo.onnx")
    mirror.list_bundles()
    with pytest.raises(BundleError, match=f"^{NAME}/1/elbo.onnx: {said}"):
        mirror.fetch(FIRST)
    assert versions(mirror.folder) == {}
    assert not list(mirror.folder.glob("*/*"))


Sign = Callable[[bytes], bytes]


@pytest.fixture
def signed(there: Path, tmp_path: Path) -> tuple[TrustedKeys, Sign]:
    """The key that must have signed what is mirrored, and what signs with it; the first version is signed."""
    key = Ed25519PrivateKey.generate()
    public = tmp_path / "public.pem"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (there / NAME / "1" / SIGNATURE).write_bytes(key.sign((there / NAME / "1" / MANIFEST).read_bytes()))
    return TrustedKeys([public]), key.sign


def test_nothing_is_downloaded_before_its_signature_is_checked(
    mirror: CachedStore, there: Path, signed: tuple[TrustedKeys, Sign]
) -> None:
    trusted, _ = signed
    mirror.list_bundles()
    good = mirror.fetch(FIRST, trusted)
    before = {path: path.read_bytes() for path in good.iterdir()}
    shutil.copytree(there / NAME / "1", there / NAME / "2")
    edit(there / NAME / "2", lambda d: d["files"].update({SIGNATURE: d["files"]["elbo.onnx"]}))
    for signature, said in ((bytes(64), "no signature of this manifest"), (bytes(65), "unsigned bundles are refused")):
        (there / NAME / "2" / SIGNATURE).write_bytes(signature)
        mirror.list_bundles()
        with pytest.raises(BundleError, match=f"{NAME}/2/{SIGNATURE}: .*{said}"):
            mirror.fetch(SECOND, trusted)
    assert {path: path.read_bytes() for path in good.iterdir()} == before
    assert [path.name for path in (mirror.folder / NAME).iterdir()] == ["1"]


@pytest.mark.parametrize("name", [SIGNATURE, "no\0path", "", ".", "a" * 300, "elbo.onnx/x", "../../3/elbo.onnx"])
def test_names_of_files_lead_nowhere_though_they_are_signed(
    mirror: CachedStore, there: Path, signed: tuple[TrustedKeys, Sign], name: str
) -> None:
    trusted, sign = signed
    folder = there / NAME / "1"
    edit(folder, lambda d: d["files"].update({name: d["files"]["elbo.onnx"]}))
    (folder / SIGNATURE).write_bytes(sign((folder / MANIFEST).read_bytes()))
    mirror.list_bundles()
    with pytest.raises(BundleError, match=f"^{NAME}/1/{MANIFEST}: .*files: "):
        mirror.fetch(FIRST, trusted)
    assert not list(mirror.folder.glob("[!.]*"))


def test_a_manifest_is_measured_before_it_is_downloaded(mirror: CachedStore, there: Path) -> None:
    os.truncate(there / NAME / "1" / MANIFEST, 2**42)
    mirror.list_bundles()
    with pytest.raises(BundleError, match=f"^{NAME}/1/{MANIFEST}: at most 4,194,304 bytes are read"):
        mirror.fetch(FIRST)


class Closed(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types.
    """Lets nobody read the manifests of some versions, as S3 does with archived objects."""

    versions = "2"

    def cat_file(self, path: str, **options: Any) -> Any:
        if path.endswith(MANIFEST) and path.split("/")[-2] in self.versions:
            raise PermissionError(path)
        return super().cat_file(path, **options)


def test_a_manifest_that_cannot_be_read_stops_no_other(mirror: CachedStore, there: Path) -> None:
    publish(there, 2)
    mirror._remote._system = system = Closed()
    assert [*mirror.list_bundles()] == [FIRST, SECOND]
    mirror.fetch(FIRST)
    with pytest.raises(StorageError, match="cannot be reached"):
        mirror.fetch(SECOND)
    system.versions = ""
    assert mirror.list_bundles()[SECOND].digest == read_bundle(mirror.fetch(SECOND)).digest


def test_a_url_where_nothing_can_be_read_is_out_of_reach(mirror: CachedStore) -> None:
    mirror._remote._system = system = Closed()
    system.versions = "1"
    with pytest.raises(StorageError, match="cannot be reached"):
        mirror.list_bundles()


def test_what_is_no_file_is_not_downloaded(mirror: CachedStore, there: Path) -> None:
    (there / NAME / "1" / "elbo.onnx").unlink()
    os.mkfifo(there / NAME / "1" / "elbo.onnx")
    mirror.list_bundles()
    with pytest.raises(BundleError, match=f"^{NAME}/1/elbo.onnx: is not there"):
        mirror.fetch(FIRST)


def test_keys_that_lead_elsewhere_are_passed_over(tmp_path: Path) -> None:
    """In S3 any text is a key."""
    remote = RemoteStore((tmp_path / "models").as_uri())
    listed = [f"{place}/1/{MANIFEST}" for place in ("..", ".", "", "a/..", ".hidden", "fine")]
    remote._system = Listing({f"{remote._root}/{path}": {"size": 1} for path in listed})
    assert list(remote.listing()) == [BundleRef("fine", 1)]


def test_folders_that_no_version_has_for_a_name_are_told(mirror: CachedStore, there: Path) -> None:
    shutil.copytree(there / NAME / "1", there / NAME / "02")
    assert list(mirror.list_bundles()) == [FIRST]
    assert mirror.misnamed() == {NAME: ["02"]}


class Listing:
    """A file system that lists what no folder can have in it."""

    def __init__(self, files: dict[str, Any]) -> None:
        self._files = files

    def invalidate_cache(self) -> None:
        pass

    def find(self, root: str, detail: bool) -> dict[str, Any]:
        return self._files


def test_many_take_turns(there: Path, tmp_path: Path) -> None:
    publish(there, 2)
    outcomes: list[object] = []

    def work() -> None:
        mirror = CachedStore(there.as_uri(), tmp_path / "cache")
        for _ in range(5):
            outcomes.extend(read_bundle(mirror.fetch(ref)).digest for ref in mirror.list_bundles())

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 6 * 5 * 2
    assert len(set(outcomes)) == 2


def test_nobody_else_is_in_the_folder_meanwhile(mirror: CachedStore) -> None:
    mirror.list_bundles()
    waiting = threading.Thread(target=mirror.list_bundles)
    with (mirror.folder / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # Keeps out only those who would be alone.
        waiting.start()
        waiting.join(0.3)
        waited = waiting.is_alive()
    waiting.join()
    assert waited


def test_a_cache_that_cannot_be_written_is_named(there: Path) -> None:
    with pytest.raises(StorageError, match=r"^/proc/nothing/[0-9a-f]{16}: cannot be written: "):
        CachedStore(there.as_uri(), Path("/proc/nothing")).list_bundles()


@pytest.mark.parametrize(
    ("url", "kind", "said"),
    [
        ("nosuch://bucket", StorageError, "Protocol not known"),
        ("gs://bucket", ExtraError, "install gcsfs"),
        ("http://127.0.0.1:9/models", StorageError, "does not list its files"),
    ],
)
def test_urls_without_a_driver_are_refused(url: str, kind: type[LowerboundError], said: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=f"^{url}: .*{said}"):
        CachedStore(url, tmp_path)
