"""Versions of one small model, cheap to make, each with bounds of its own, and damaged ones."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from service.bundle import GOLDEN, MANIFEST, Array, Bundle, read_bundle, write_arrays, write_bundle
from service.bundle.arrays import read_arrays
from service.engine import OnnxEngine
from tests.oracle import bring_your_own

NAME = "mine"
ROWS = np.random.default_rng(0).normal(size=(64, 6))


def publish(repository: Path, version: int, made: int | None = None) -> Bundle:
    """Write a version whose bounds follow from `made`, the version's own number if not given."""
    bundle = make(repository.parent, version, version if made is None else made)
    write_bundle(repository, bundle.manifest, bundle.files)
    return read_bundle(repository / NAME / str(version))


def make(folder: Path, version: int, made: int) -> Bundle:
    """The bundle, not yet in a repository."""
    weights = bring_your_own.fit(ROWS + made, latent_size=2)
    written = bring_your_own.write(folder / "making", NAME, weights, ROWS, num_draws=8)
    bundle = read_bundle(written)
    shutil.rmtree(folder / "making")
    return Bundle(bundle.manifest.model_copy(update={"version": version}), bundle.files, "")


def answers(bundle: Bundle, rows: Array) -> Array:
    """The ELBOs that this bundle gives, by an engine of its own; to the bit those that the service must answer."""
    engine = OnnxEngine(bundle.manifest.graphs, bundle.files, "cpu")
    return engine.run("elbo", {"x": rows, "noise": bundle.calibration["noise"]})["elbo"]


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as someone with a text editor would."""
    path = folder / MANIFEST
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def replace(folder: Path, name: str, data: bytes) -> None:
    """Put another file in, and its true size and digest in the manifest."""
    path = folder / name
    path.write_bytes(data)
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    edit(folder, lambda document: document["files"].update({name: entry}))


def truncate(folder: Path) -> str:
    data = (folder / "elbo.onnx").read_bytes()
    (folder / "elbo.onnx").write_bytes(data[: len(data) // 2])
    return "elbo.onnx: "


def tamper(folder: Path) -> str:
    data = bytearray((folder / "decoder.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "decoder.onnx").write_bytes(data)
    return "decoder.onnx: SHA-256 is "


def garble(folder: Path) -> str:
    (folder / MANIFEST).write_bytes(b"{")
    return "manifest.json: not a manifest"


def mislead(folder: Path) -> str:
    """Whole and consistent, but its graphs give other numbers than its golden rows say."""
    arrays = read_arrays((folder / GOLDEN).read_bytes(), GOLDEN)
    arrays["elbo.elbo"] += 1
    replace(folder, GOLDEN, write_arrays(arrays))
    return "the golden ELBOs are "


DAMAGES: tuple[Callable[[Path], str], ...] = (truncate, tamper, garble, mislead)
"""What can be wrong with a version; each gives the beginning of what the service says of it."""
