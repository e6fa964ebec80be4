"""`lowerbound sign BUNDLE`: sign a bundle, for services that require a signature."""

import hashlib
import sys
from contextlib import suppress
from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from service.bundle import MANIFEST, MAX_MANIFEST_BYTES, SIGNATURE, BundleFolder, read_bundle
from service.bundle.signing import sign
from service.cli import CommandOptions, parse
from service.errors import FileError


class Signing(CommandOptions):
    """Sign a bundle's manifest, and with it every file of the bundle.

    Example:
      lowerbound sign models/rows/1 --key key.pem

    A service started with --trusted-keys serves only bundles that one of those keys has signed.
    """

    model_config = SettingsConfigDict(cli_prog_name="lowerbound sign")

    bundle: CliPositionalArg[Path] = Field(description="The bundle's folder, <repository>/<name>/<version>.")
    key: Path = Field(description="PEM file of an Ed25519 private key.")


def main(arguments: list[str]) -> None:
    """Verify the bundle, sign it, and say where the signature is.

    Raises:
        ValidationError: The arguments are wrong.
        LowerboundError: The bundle or the key cannot be used, or the signature not be written.
    """
    options = parse(Signing, arguments)
    with BundleFolder(options.bundle) as folder:
        manifest = folder.read(MANIFEST, MAX_MANIFEST_BYTES)
    read_bundle(options.bundle, digest=hashlib.sha256(manifest).hexdigest())
    signature = sign(manifest, options.key)
    file = options.bundle / SIGNATURE
    temporary = file.with_name(f".{SIGNATURE}.new")
    try:
        temporary.unlink(missing_ok=True)  # A killed signer left it, or it is a link of the bundle's author.
        with temporary.open("xb") as new:
            new.write(signature)
        temporary.replace(file)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise FileError(f"{file}: cannot be written: {error.strerror}") from error
    print(f"signature: {file}", file=sys.stderr)
