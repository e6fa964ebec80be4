"""With `--trusted-keys`, a bundle is served only with a signature of its manifest by someone trusted."""

import os
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from service.bundle import MANIFEST, SIGNATURE, Bundle, TrustedKeys, read_bundle
from service.bundle.signing import sign
from service.cli import main
from service.errors import BundleError, KeysError
from tests.conftest import run_server
from tests.service.conftest import Refused


@dataclass(frozen=True)
class Signer:
    """The keys of a signer, as PEM files."""

    private: Path
    public: Path


def write_key(folder: Path, name: str, key: Ed25519PrivateKey, encryption: KeySerializationEncryption) -> Signer:
    signer = Signer(folder / f"{name}.pem", folder / f"{name}.public.pem")
    signer.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    signer.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return signer


@pytest.fixture
def ada(tmp_path: Path) -> Signer:
    return write_key(tmp_path, "ada", Ed25519PrivateKey.generate(), NoEncryption())


@pytest.fixture
def eve(tmp_path: Path) -> Signer:
    return write_key(tmp_path, "eve", Ed25519PrivateKey.generate(), NoEncryption())


def test_the_command_signs_and_the_service_serves(
    table_bundle: Path, ada: Signer, eve: Signer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sign", str(table_bundle), "--key", str(ada.private)]) == 0
    assert capsys.readouterr().err == f"signature: {table_bundle / SIGNATURE}\n"
    options = ("--models", str(tmp_path), "--trusted-keys", f"{eve.public},{ada.public}")
    with run_server(*options, log=tmp_path / "log") as client:
        assert client.get("/models").json() == {"models": {"people": [1]}, "default": "people", "refused": {}}


def test_the_service_refuses_what_another_signed(
    table_bundle: Path, ada: Signer, eve: Signer, tmp_path: Path, refused: Refused
) -> None:
    options = ("--models", str(tmp_path), "--trusted-keys", str(ada.public))
    for said in (
        "cannot be read: No such file or directory; unsigned bundles are refused",
        "no signature of this manifest by a trusted key",
    ):
        done = refused(*options)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert f"people/1/{SIGNATURE}: {said}" in done.stderr
        assert main(["sign", str(table_bundle), "--key", str(eve.private)]) == 0


def test_any_trusted_key_will_do(table_bundle: Path, ada: Signer, eve: Signer) -> None:
    manifest = (table_bundle / MANIFEST).read_bytes()
    for signer in (ada, eve):
        (table_bundle / SIGNATURE).write_bytes(sign(manifest, signer.private))
        read_bundle(table_bundle, TrustedKeys([ada.public, eve.public]))
        read_bundle(table_bundle)  # Unasked, a signature is neither needed nor looked at.


def test_every_bit_of_manifest_and_signature_counts(table_bundle: Path, ada: Signer) -> None:
    manifest = (table_bundle / MANIFEST).read_bytes()
    signature = sign(manifest, ada.private)
    trusted = TrustedKeys([ada.public])
    trusted.check(manifest, signature, table_bundle)
    for i in range(0, len(manifest), 97):
        changed = bytearray(manifest)
        changed[i] ^= 1
        with pytest.raises(BundleError, match="no signature of this manifest"):
            trusted.check(bytes(changed), signature, table_bundle)
    damaged = [bytes([*signature[:i], signature[i] ^ 1, *signature[i + 1 :]]) for i in range(64)]
    for other in (*damaged, b"", signature[:-1], signature + b"\n", signature.hex().encode()):
        with pytest.raises(BundleError, match="no signature of this manifest"):
            trusted.check(manifest, other, table_bundle)


def test_a_manifest_is_not_read_before_its_signature(table_bundle: Path, ada: Signer) -> None:
    (table_bundle / MANIFEST).write_bytes(b"{")
    with pytest.raises(BundleError, match="unsigned bundles are refused"):
        read_bundle(table_bundle, TrustedKeys([ada.public]))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl")
def test_openssl_signs_and_checks(table_bundle: Path, tmp_path: Path) -> None:
    """With the commands that docs/guide/security.md gives."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    manifest, signature = str(table_bundle / MANIFEST), str(table_bundle / SIGNATURE)
    openssl("genpkey", "-algorithm", "ed25519", "-out", "key.pem")
    openssl("pkey", "-in", "key.pem", "-pubout", "-out", "public.pem")
    openssl("pkeyutl", "-sign", "-rawin", "-inkey", "key.pem", "-in", manifest, "-out", signature)
    read_bundle(table_bundle, TrustedKeys([tmp_path / "public.pem"]))
    (table_bundle / SIGNATURE).write_bytes(sign((table_bundle / MANIFEST).read_bytes(), tmp_path / "key.pem"))
    openssl("pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "public.pem", "-in", manifest, "-sigfile", signature)


def test_keys_that_cannot_be_used_are_refused(ada: Signer, tmp_path: Path, refused: Refused) -> None:
    locked = write_key(tmp_path, "locked", Ed25519PrivateKey.generate(), BestAvailableEncryption(b"secret"))
    curve = generate_private_key(SECP256R1())
    (tmp_path / "curve.pem").write_bytes(curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = curve.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "curve.public.pem").write_bytes(public)
    (tmp_path / "text").write_text("no key")
    for key, said in [
        (locked.private, "no private key in PEM without a passphrase"),
        (ada.public, "no private key in PEM"),
        (tmp_path / "text", "no private key in PEM"),
        (tmp_path / "curve.pem", "a private key, but not of Ed25519"),
        (tmp_path / "nothing", "cannot be read: No such file"),
        (Path("/dev/zero"), "cannot be read: at most 4,194,304 bytes are read"),
    ]:
        with pytest.raises(KeysError, match=f"{key.name}: {said}"):
            sign(b"", key)
    for key, said in [
        (ada.private, "no public key in PEM"),
        (tmp_path / "text", "no public key in PEM"),
        (tmp_path / "curve.public.pem", "a public key, but not of Ed25519"),
        (tmp_path / "nothing", "cannot be read: No such file"),
        (Path("/dev/zero"), "cannot be read: at most 4,194,304 bytes are read"),
    ]:
        with pytest.raises(KeysError, match=f"{key.name}: {said}"):
            TrustedKeys([key])
    assert "text: no public key in PEM" in refused("--trusted-keys", str(tmp_path / "text")).stderr


def test_only_what_is_whole_is_signed(
    table_bundle: Path, ada: Signer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sign", str(table_bundle)]) == 1
    assert main(["sign", str(table_bundle), "--key", str(tmp_path / "nothing")]) == 1
    (table_bundle / "elbo.onnx").write_bytes(b"")
    assert main(["sign", str(table_bundle), "--key", str(ada.private)]) == 1
    said = capsys.readouterr().err
    assert "error: key: Field required" in said
    assert "nothing: cannot be read" in said
    assert "elbo.onnx: 0 bytes; the manifest says" in said
    assert not (table_bundle / SIGNATURE).exists()


def test_a_key_may_come_by_a_pipe(ada: Signer) -> None:
    reader, writer = os.pipe()
    os.write(writer, ada.private.read_bytes())
    os.close(writer)
    try:
        assert sign(b"manifest", Path(f"/dev/fd/{reader}")) == sign(b"manifest", ada.private)
    finally:
        os.close(reader)


def test_what_was_checked_is_signed(table_bundle: Path, ada: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = (table_bundle / MANIFEST).read_bytes()

    def change_after(*arguments: Any, **keywords: Any) -> Bundle:
        bundle = read_bundle(*arguments, **keywords)
        (table_bundle / MANIFEST).write_bytes(b"{}")
        return bundle

    monkeypatch.setattr("service.commands.sign.read_bundle", change_after)
    assert main(["sign", str(table_bundle), "--key", str(ada.private)]) == 0
    TrustedKeys([ada.public]).check(checked, (table_bundle / SIGNATURE).read_bytes(), table_bundle)


def test_a_signature_goes_through_no_link_in_the_bundle(table_bundle: Path, ada: Signer, tmp_path: Path) -> None:
    (precious := tmp_path / "precious").write_bytes(b"mine")
    (table_bundle / SIGNATURE).symlink_to(precious)
    (table_bundle / f".{SIGNATURE}.new").symlink_to(precious)
    assert main(["sign", str(table_bundle), "--key", str(ada.private)]) == 0
    assert precious.read_bytes() == b"mine"
    assert read_bundle(table_bundle, TrustedKeys([ada.public]))


def test_nothing_half_is_left_where_the_disk_is_full(
    table_bundle: Path, ada: Signer, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(table_bundle.iterdir())
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
    try:
        assert main(["sign", str(table_bundle), "--key", str(ada.private)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert capsys.readouterr().err == f"error: {table_bundle / SIGNATURE}: cannot be written: File too large\n"
    assert sorted(table_bundle.iterdir()) == before
