"""`lowerbound sign BUNDLE`: sign a bundle, for services that require a signature."""

import hashlib
import sys
from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from service.bundle import MANIFEST, MAX_MANIFEST_BYTES, SIGNATURE, BundleFolder, read_bundle
from service.bundle.signing import sign
from service.cli import CommandOptions, parse
from service.errors import FileError
from service.small_files import replace_file


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
    try:
        replace_file(file, signature, follow=False)  # It may be a link of the bundle's author.
    except OSError as error:
        raise FileError(f"{file}: cannot be written: {error.strerror}") from error
    print(f"signature: {file}", file=sys.stderr)
