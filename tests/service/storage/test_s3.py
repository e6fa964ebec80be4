"""Bundles in a bucket of an S3 server: followed, verified, and served on when the server is away."""

import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from service.bundle import MANIFEST, SIGNATURE, Bundle, read_bundle, versions
from service.bundle.signing import sign
from service.errors import BundleError
from service.storage import DEFAULT_REPOSITORY, BundleRef
from service.storage.remote import RemoteStore
from tests import warm
from tests.conftest import run_server, wait_until
from tests.s3 import S3, Bucket, Proxy, free_port
from tests.service.bundle_versions import DAMAGES, NAME, publish
from tests.service.inference.test_loader import assert_answered_by, elbo, models

until = partial(wait_until, seconds=60)

FIRST, SECOND = BundleRef(NAME, 1), BundleRef(NAME, 2)


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


ALSO_LOCAL = [pytest.param(damage, marks=pytest.mark.slow) for damage in DAMAGES[1:]]
"""A folder's tests have these damages among the fast ones; a bucket is read by the same code."""


@pytest.mark.parametrize("damage", [DAMAGES[0], *ALSO_LOCAL])
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


@pytest.mark.slow
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
    command = ["service", "--models", "s3://bucket/models", "--model-cache", str(tmp_path)]
    done = warm.run(command, **environment, AWS_SECRET_ACCESS_KEY="nothing")
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


@pytest.mark.slow
def test_a_kill_in_the_midst_of_a_download_leaves_nothing_half(s3: S3, bucket: Bucket, tmp_path: Path) -> None:
    bucket.upload(DEFAULT_REPOSITORY, "models")
    cache = tmp_path / "cache"
    command = ["service", "--models", bucket.url, "--model-cache", str(cache), "--port", "0"]
    with Proxy(s3.port) as between:
        between.spoilt, between.most, between.cuts = b"weights.bin", 150_000, False
        process = warm.start(command, tmp_path / "log", **s3.environment(between.port))
        try:
            until(lambda: [path for path in cache.glob("*/digits/.*/weights.bin") if path.stat().st_size])
            time.sleep(1)
        finally:
            process.kill()
            process.wait(30)
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
    assert remote.next_version(NAME) == 2
    with pytest.raises(BundleError, match="exists already"):
        remote.write(bundle.manifest, bundle.files)
    assert not (folder / MANIFEST).exists()
