"""`python -m training sign BUNDLE`: sign a bundle, for services that serve signed ones only.

This module must not know what is in a bundle.
"""

from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, CliPositionalArg, SettingsConfigDict
from rich.console import Console

from service.bundle import MANIFEST, read_bundle
from service.errors import LowerboundError
from service.signature import SIGNATURE, sign


class Signing(BaseSettings):
    """Sign a bundle's manifest, and with it every file of the bundle."""

    model_config = SettingsConfigDict(
        frozen=True, cli_prog_name="python -m training sign", cli_kebab_case=True, cli_hide_none_type=True
    )

    bundle: CliPositionalArg[Path] = Field(description="The bundle's folder, <repository>/<name>/<version>.")
    key: Path = Field(description="PEM file of an Ed25519 private key.")


def main(arguments: list[str]) -> int:
    """Verify the bundle, sign it, and say where the signature is; returns the exit status."""
    console = Console(stderr=True, soft_wrap=True)
    try:
        options = CliApp.run(Signing, cli_args=arguments)
        read_bundle(options.bundle)
        signature = sign((options.bundle / MANIFEST).read_bytes(), options.key)
        file = options.bundle / SIGNATURE
        temporary = file.with_name(f".{SIGNATURE}.new")
        temporary.write_bytes(signature)
        temporary.replace(file)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        console.print(f"error: {'; '.join(problems)}", style="red", markup=False)
        return 1
    except (LowerboundError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    console.print(f"signature: {file}", markup=False)
    return 0
