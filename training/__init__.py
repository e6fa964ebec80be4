"""Lowerbound's trainer: from a table or a folder of images to a bundle that the service can answer from."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Before PyTorch is imported. By default its threads wait for each other without sleeping, for longer than other work
# lets them have a core. On busy cores each operation of an epoch then takes a time slice.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if TYPE_CHECKING:
    from training.own_vae import export_vae as export_vae


def __getattr__(name: str) -> Any:
    """`export_vae`, which loads PyTorch only where it is asked for."""
    if name == "export_vae":
        return import_module("training.own_vae").export_vae
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
