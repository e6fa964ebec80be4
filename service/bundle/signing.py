"""Signatures: a bundle is served only if someone trusted has signed its manifest.

A signature is detached: the 64 bytes of Ed25519 (RFC 8032) over manifest.json as it stands on the disk, in a file
beside it. The manifest holds the SHA-256 of every other file, so that one signature covers all. It is what OpenSSL
makes and checks: `openssl pkeyutl -sign -rawin -inkey KEY.pem -in manifest.json -out manifest.sig`.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from service.errors import BundleError, KeysError
from service.small_files import read_small_file

SIGNATURE = "manifest.sig"
SIGNATURE_BYTES = 64

_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm)
"""Errors of `cryptography` for text that is no PEM key, keys of unknown kinds, and keys with a passphrase."""


class TrustedKeys:
    """The public keys of trusted signers, a PEM file for each.

    Raises:
        KeysError: A file cannot be read, or holds no public key of Ed25519.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._keys = [_read_public(file) for file in files]

    def check(self, manifest: bytes, signature: bytes, where: Path) -> None:
        """Check the signature of a manifest, which was read from `where`.

        Raises:
            BundleError: It is of another manifest or by no trusted key.
        """
        for key in self._keys:
            with contextlib.suppress(InvalidSignature):
                key.verify(signature, manifest)
                return
        raise BundleError(f"{where}: no signature of this manifest by a trusted key")


def sign(manifest: bytes, key: Path) -> bytes:
    """The signature of a manifest by the private key in a PEM file.

    Raises:
        KeysError: The file cannot be read, holds no private key of Ed25519, or one with a passphrase.
    """
    try:
        private = load_pem_private_key(_read(key), password=None)
    except _UNREADABLE as error:
        raise KeysError(f"{key}: no private key in PEM without a passphrase") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise KeysError(f"{key}: a private key, but not of Ed25519")
    return private.sign(manifest)


def _read_public(file: Path) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(_read(file))
    except _UNREADABLE as error:
        raise KeysError(f"{file}: no public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeysError(f"{file}: a public key, but not of Ed25519")
    return key


def _read(file: Path) -> bytes:
    try:
        return read_small_file(file)
    except OSError as error:
        raise KeysError(f"{file}: cannot be read: {error.strerror}") from error
