"""`lowerbound promote BUNDLE`: make a version the latest of its model again."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from service.bundle import read_bundle
from service.cli import CommandOptions, parse
from service.storage import LocalStore


class Promoting(CommandOptions):
    """Copy a version of a model as its next version, with a manifest of its own: services then answer from the copy.

    Example:
      lowerbound promote models/payments/3            where 5 is the latest, 6 is what 3 was

    All versions stay. The copy is not signed.
    """

    model_config = SettingsConfigDict(cli_prog_name="lowerbound promote")

    bundle: CliPositionalArg[Path] = Field(description="The bundle's folder, <repository>/<name>/<version>.")


def main(arguments: list[str]) -> None:
    """Verify the bundle, write the copy, and print its place.

    Raises:
        ValidationError: An option is wrong.
        BundleError: The bundle cannot be used, or another process has written the same version meanwhile.
        OSError: The copy cannot be written.
    """
    folder = parse(Promoting, arguments).bundle.resolve()
    bundle = read_bundle(folder)
    provenance = bundle.manifest.provenance.model_copy(update={"copy_of": bundle.digest})
    copy = bundle.manifest.model_copy(update={"provenance": provenance})
    print(LocalStore(folder.parents[1]).write_next(copy, bundle.files))
