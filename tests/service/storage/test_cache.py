"""Bundles at a URL: downloaded once, verified, never half-read; what is out of reach goes on being served."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from service.bundle import MANIFEST, SIGNATURE, Bundle, TrustedKeys, read_bundle, versions
from service.bundle.signing import sign
from service.errors import BundleError, ExtraError, LowerboundError, StorageError
from service.storage import DEFAULT_REPOSITORY, BundleRef
from service.storage.cache import CachedStore
from service.storage.remote import RemoteStore
from tests.conftest import run_server, wait_until
from tests.s3 import S3, Bucket, Proxy, free_port, kill
from tests.service.bundle_versions import DAMAGES, NAME, publish
from tests.service.inference.test_loader import assert_answered_by, elbo, models

until = partial(wait_until, seconds=60)

FIRST, SECOND = BundleRef(NAME, 1), BundleRef(NAME, 2)
DIGITS = BundleRef("digits", 1)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A repository of one version, to be mirrored."""
    publish(tmp_path / "models", 1)
    return tmp_path / "models"


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


def tamper(path: Path) -> str:
    path.write_bytes(path.read_bytes()[::-1])
    return "SHA-256 is .*; the manifest says "


def remove(path: Path) -> str:
    path.unlink()
    return "is not there$"


@pytest.mark.parametrize("damage", [truncate, tamper, remove])
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


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / MANIFEST).read_bytes())
    change(document)
    (folder / MANIFEST).write_text(json.dumps(document))


def test_nothing_is_downloaded_before_its_signature_is_checked(
    mirror: CachedStore, there: Path, signed: tuple[TrustedKeys, Sign]
) -> None:
    trusted, _ = signed
    mirror.list_bundles()
    good = mirror.fetch(FIRST, trusted)
    before = {path: path.read_bytes() for path in good.iterdir()}
    shutil.copytree(there / NAME / "1", there / NAME / "2")
    change_manifest(there / NAME / "2", lambda d: d["files"].update({SIGNATURE: d["files"]["elbo.onnx"]}))
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
    change_manifest(folder, lambda d: d["files"].update({name: d["files"]["elbo.onnx"]}))
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


def test_a_cache_that_cannot_be_written_is_named(there: Path) -> None:
    with pytest.raises(StorageError, match=r"^/proc/nothing/[0-9a-f]{16}: cannot be written: "):
        CachedStore(there.as_uri(), Path("/proc/nothing")).list_bundles()


@pytest.mark.parametrize(
    ("url", "kind", "said"),
    [("nosuch://bucket", StorageError, "Protocol not known"), ("gs://bucket", ExtraError, "install gcsfs")],
)
def test_urls_without_a_driver_are_refused(url: str, kind: type[LowerboundError], said: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=f"^{url}: .*{said}"):
        CachedStore(url, tmp_path)


def test_without_fsspec_a_url_is_refused_and_a_folder_served() -> None:
    code = """
import sys
sys.modules["fsspec"] = None
from service.api.app import create_app
from service.errors import ExtraError
from service.settings import Settings
create_app(Settings())
try:
    create_app(Settings(models="s3://bucket/models"))
except ExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("s3://bucket/models cannot be read: pip install 'lowerbound[remote]' (")


# With an S3 server


@pytest.fixture
def bucket(s3: S3) -> Bucket:
    return s3.bucket()


@pytest.fixture
def served(s3: S3, bucket: Bucket, there: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a service of the bucket's bundles, of which there is one, that follows them."""
    bucket.upload(there, "models")
    with serving(bucket, tmp_path, s3.environment()) as client:
        yield client


def serving(bucket: Bucket, tmp_path: Path, environment: dict[str, str], *arguments: str) -> Any:
    flags = ("--models", bucket.url, "--model-cache", str(tmp_path / "cache"), "--poll", "0.1", "--engine-threads", "1")
    return run_server(*flags, *arguments, log=tmp_path / "log", **environment)


def second(bucket: Bucket, there: Path) -> Bundle:
    bundle = publish(there, 2)
    bucket.upload(there / NAME / "2", f"models/{NAME}/2")
    return bundle


def test_a_bucket_is_followed(served: httpx.Client, bucket: Bucket, there: Path) -> None:
    assert_answered_by(elbo(served), read_bundle(there / NAME / "1"))
    bundle = second(bucket, there)
    until(lambda: models(served) == {"models": {NAME: [1, 2]}, "default": NAME, "refused": {}})
    assert_answered_by(elbo(served), bundle)
    bucket.remove(f"models/{NAME}/2/")
    until(lambda: models(served)["models"] == {NAME: [1]})


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_version_is_refused(
    served: httpx.Client, bucket: Bucket, there: Path, tmp_path: Path, damage: Callable[[Path], str]
) -> None:
    before = elbo(served)
    publish(there, 2)
    said = damage(there / NAME / "2")
    bucket.upload(there / NAME / "2", f"models/{NAME}/2")
    until(lambda: models(served)["refused"])
    reason = models(served)["refused"][NAME]["2"]
    assert said in reason
    assert str(tmp_path) not in reason
    time.sleep(0.5)
    assert (tmp_path / "log").read_text().count(f"{NAME} 2 is refused") == 1
    assert elbo(served).content == before.content
    shutil.rmtree(there / NAME / "2")
    second(bucket, there)  # Mended.
    until(lambda: models(served) == {"models": {NAME: [1, 2]}, "default": NAME, "refused": {}})


def test_who_must_have_signed_is_asked_of_a_bucket_too(s3: S3, bucket: Bucket, there: Path, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    private, public = tmp_path / "key.pem", tmp_path / "public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    folder = there / NAME / "1"
    (folder / SIGNATURE).write_bytes(sign((folder / MANIFEST).read_bytes(), private))
    bucket.upload(there, "models")
    with serving(bucket, tmp_path, s3.environment(), "--trusted-keys", str(public)) as client:
        second(bucket, there)
        until(lambda: models(client)["refused"])
        assert "unsigned bundles are refused" in models(client)["refused"][NAME]["2"]
        bucket.put(f"models/{NAME}/2/{SIGNATURE}", sign((there / NAME / "2" / MANIFEST).read_bytes(), private))
        until(lambda: models(client)["models"] == {NAME: [1, 2]})


@pytest.mark.slow
def test_a_server_that_is_away_takes_nothing_away(there: Path, tmp_path: Path) -> None:
    server = S3(tmp_path / "s3")
    try:
        bucket = server.bucket("once")
        bucket.upload(there, "models")
        with serving(bucket, tmp_path, server.environment()) as client:
            before = elbo(client)
            server.kill()
            until(lambda: "what was read of it is still served" in (tmp_path / "log").read_text())
            assert elbo(client).content == before.content
            assert client.get("/health/ready").is_success
        with serving(bucket, tmp_path, server.environment()) as client:
            assert "what was downloaded before is served" in (tmp_path / "log").read_text()
            assert elbo(client).content == before.content
            server.start()
            bucket = server.bucket("once")
            bucket.upload(there, "models")
            bundle = second(bucket, there)
            until(lambda: elbo(client).headers["Lowerbound-Version"] == "2")
            assert_answered_by(elbo(client), bundle)
    finally:
        server.kill()


@pytest.mark.slow
def test_without_the_server_nothing_that_was_never_there_is_served(tmp_path: Path) -> None:
    environment = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}", "AWS_ACCESS_KEY_ID": "nobody"}
    command = [sys.executable, "-m", "service", "--models", "s3://bucket/models", "--model-cache", str(tmp_path)]
    done = subprocess.run(
        command,
        env=os.environ | environment | {"AWS_SECRET_ACCESS_KEY": "nothing"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "error: s3://bucket/models: cannot be reached: " in done.stderr


def test_a_download_that_breaks_off_is_tried_again(s3: S3, bucket: Bucket, there: Path, tmp_path: Path) -> None:
    bucket.upload(there, "models")
    with Proxy(s3.port) as between, serving(bucket, tmp_path, s3.environment(between.port)) as client:
        between.spoilt, between.most = b"weights.bin", 10_000
        bucket.upload(DEFAULT_REPOSITORY / "digits" / "1", "models/digits/1")
        until(lambda: models(client)["refused"])
        assert "cannot be reached" in models(client)["refused"]["digits"]["1"]
        assert models(client)["models"] == {NAME: [1]}
        assert client.get("/health/ready").is_success
        between.spoilt = None
        until(lambda: models(client)["models"] == {NAME: [1], "digits": [1]})
        assert models(client)["refused"] == {}


def test_a_kill_in_the_midst_of_a_download_leaves_nothing_half(s3: S3, bucket: Bucket, tmp_path: Path) -> None:
    bucket.upload(DEFAULT_REPOSITORY, "models")
    cache = tmp_path / "cache"
    command = [sys.executable, "-m", "service", "--models", bucket.url, "--model-cache", str(cache), "--port", "0"]
    with Proxy(s3.port) as between, (tmp_path / "log").open("wb") as log:
        between.spoilt, between.most, between.cuts = b"weights.bin", 150_000, False
        process = subprocess.Popen(command, env=os.environ | s3.environment(between.port), stdout=log, stderr=log)
        try:
            until(lambda: [path for path in cache.glob("*/digits/.*/weights.bin") if path.stat().st_size])
            time.sleep(1)
        finally:
            kill(process)
    (half,) = cache.glob("*/digits/.*")
    (folder,) = cache.iterdir()
    assert 0 < (half / "weights.bin").stat().st_size < 248_320
    assert versions(folder) == {}
    with serving(bucket, tmp_path, s3.environment()) as client:
        assert models(client)["models"] == {"digits": [1]}
        assert not half.exists()


def test_a_bundle_is_written_with_its_manifest_last(tmp_path: Path, there: Path) -> None:
    bundle = read_bundle(there / NAME / "1")
    remote = RemoteStore((tmp_path / "published").as_uri())
    remote.try_to_write(NAME)
    written = remote.write(bundle.manifest, bundle.files)
    assert written == f"{(tmp_path / 'published').as_uri()}/{NAME}/1"
    folder = tmp_path / "published" / NAME / "1"
    assert read_bundle(folder).digest == bundle.digest
    assert max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns).name == MANIFEST
    (folder / MANIFEST).unlink()
    assert remote.taken(NAME) == [1]
    with pytest.raises(BundleError, match="exists already"):
        remote.write(bundle.manifest, bundle.files)
    assert not (folder / MANIFEST).exists()
