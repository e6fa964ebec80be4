"""The bundle: the contract between the trainer and the service.

A bundle is a folder `<repository>/<name>/<version>/`:

    manifest.json    written last: its presence means that the bundle is complete
    manifest.sig     a signature of manifest.json (optional); see `service.bundle.signing`
    encoder.onnx     x → mean, log_variance                        q(z|x) = N(mean, diag exp(log_variance))
    decoder.onnx     z → x_mean                                    E[x|z], in data units
    elbo.onnx        x, noise → the per-row bounds                 see `graph_contract`
    explain.onnx     x, noise → feature_log_likelihood, latent_kl  where the bound comes from (optional)
    draw.onnx        z, normal, uniform → x                        a draw from p(x|z), in data units (optional)
    prior.onnx       normal, uniform → z                           a draw from p(z) (optional; else it is N(0, I))
    scores.onnx      x → typicality; of images, multiscale_residual       further scores, of a single pass (optional)
    refine.onnx      x, noise, q, Adam's state → the next ones     a step of variational inference (optional)
    weights.bin      the graphs' large tensors, each stored once and shared by the graphs
    calibration.npz  `noise`, the base samples (K, L); `<score>`, held-out scores sorted ascending (n,)
    missing_cells.npz held-out scores for a table's rows with missing cells (optional): `patterns` (P, D), bool, which
                     cells rows lack; `counts` (C,), how many; `often` (D,), bool, the columns that `counts` is for;
                     `<score>.sizes` (P + C,), how many scores each of these has, and `<score>`, one after the other,
                     each part sorted ascending; see `service.scoring.missing_cells`
    golden.npz       `<graph>.<tensor>`: a few rows, their noise, and what every graph answered
    card/            the model card: index.html, and its pictures (optional)

A bundle is hostile until it is verified. The signature is checked before the manifest is parsed, and sizes before
contents. Every file is read into memory once and checked against the manifest's SHA-256. The graphs are built from
those very bytes, so that the verified bytes run.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from service.bundle.arrays import Array, read_arrays
from service.bundle.folder import BundleFolder
from service.bundle.inputs import TabularInput
from service.bundle.manifest import CALIBRATION, FORMAT_VERSION, GOLDEN, MISSING_CELLS, File, Manifest
from service.bundle.signing import SIGNATURE, SIGNATURE_BYTES, TrustedKeys
from service.errors import BundleError

MANIFEST = "manifest.json"
WEIGHTS = "weights.bin"

MAX_MANIFEST_BYTES = 4 * 2**20
"""Bytes of manifest.json; as objects of Python it takes up to twenty times as many."""

MAX_GOLDEN_ROWS = 1024
"""Golden rows of a graph: the service computes them every few seconds."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: the manifest and the bytes of every file it lists."""

    manifest: Manifest
    files: Mapping[str, bytes]
    digest: str
    """SHA-256 of manifest.json, which holds the digest of every other file: it names the bundle's exact content."""

    @cached_property
    def calibration(self) -> dict[str, Array]:
        """The default base samples (`noise`) and the sorted held-out scores, by name."""
        return read_arrays(self.files[CALIBRATION], CALIBRATION)

    @cached_property
    def missing_cells(self) -> dict[str, Array]:
        """The held-out scores for rows with missing cells, by name; empty where the bundle has none."""
        return read_arrays(self.files[MISSING_CELLS], MISSING_CELLS) if MISSING_CELLS in self.files else {}

    @cached_property
    def golden(self) -> dict[str, dict[str, Array]]:
        """For each graph, its golden inputs and outputs by tensor name."""
        tensors: dict[str, dict[str, Array]] = {graph: {} for graph in self.manifest.graphs}
        for key, array in read_arrays(self.files[GOLDEN], GOLDEN).items():
            graph, _, tensor = key.partition(".")
            if graph not in tensors:
                raise BundleError(f"{GOLDEN}: {key!r} belongs to no graph of the manifest")
            tensors[graph][tensor] = array
        return tensors


def read_bundle(folder: Path, trusted: TrustedKeys | None = None, digest: str | None = None) -> Bundle:
    """Read a bundle and verify all of it.

    One of the trusted keys must have signed it, where they are given, and its manifest must have the digest, where that
    was verified before.

    Raises:
        BundleError: The manifest is missing, not signed by one of them, unreadable or of another major format version;
            a file is missing, of another size or digest, or no plain file; an array has the wrong shape. The message
            names the file or field.
    """
    with BundleFolder(folder) as opened:
        text = _read_manifest(opened, trusted)
        found = hashlib.sha256(text).hexdigest()
        if digest is not None and digest != found:
            raise BundleError(f"{folder / MANIFEST}: it changes while it is read")
        manifest = parse_manifest(text, folder)
        files = {name: _read_file(opened, name, expected) for name, expected in manifest.files.items()}
    bundle = Bundle(manifest, files, found)
    try:
        _check_arrays(bundle)
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error
    return bundle


def read_digest(folder: Path, trusted: TrustedKeys | None) -> str:
    """The manifest's SHA-256, once its signature has been checked, without understanding it; see `read_bundle`.

    Raises:
        BundleError: The manifest cannot be read, or no trusted key has signed it.
    """
    with BundleFolder(folder) as opened:
        return hashlib.sha256(_read_manifest(opened, trusted)).hexdigest()


def parse_manifest(text: bytes, folder: Path) -> Manifest:
    """What the bytes of a folder's manifest.json say.

    Raises:
        BundleError: They are unreadable, or of another major format version; the message names the file and field.
    """
    where = folder / MANIFEST
    try:
        version = json.loads(text, object_pairs_hook=_unique)["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{where}: not a manifest: {error!r}") from error
    if str(version).partition(".")[0] != FORMAT_VERSION.partition(".")[0]:
        raise BundleError(f"{where}: format_version is {version!r}; this service reads {FORMAT_VERSION}")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{where}: {field + ': ' if field else ''}{first['msg']}") from error


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; readers differ on which of two members of one name counts."""
    found = dict(members)
    if len(found) < len(members):
        ((name, _),) = Counter(name for name, _ in members).most_common(1)
        raise ValueError(f"the key {name!r} occurs twice")
    return found


def _read_manifest(folder: BundleFolder, trusted: TrustedKeys | None) -> bytes:
    """The bytes of manifest.json, whose signature has been checked."""
    try:
        text = folder.read(MANIFEST, MAX_MANIFEST_BYTES)
    except BundleError as error:
        below = chain(folder.path.glob(f"*/{MANIFEST}"), folder.path.glob(f"*/*/{MANIFEST}"))
        if not os.path.lexists(folder.path / MANIFEST) and (found := next(below, None)):
            raise BundleError(f"{folder.path}: is no bundle, but holds some, as {found.parent}") from error
        raise
    if trusted is not None:
        where = folder.path / SIGNATURE
        try:
            signature = folder.read(SIGNATURE, SIGNATURE_BYTES)
        except BundleError as error:
            raise BundleError(f"{error}; unsigned bundles are refused") from error
        trusted.check(text, signature, where)
    return text


def _read_file(folder: BundleFolder, name: str, expected: File) -> bytes:
    data = folder.read(name, expected.size, expected.size)
    if (digest := hashlib.sha256(data).hexdigest()) != expected.sha256:
        raise BundleError(f"{folder.path / name}: SHA-256 is {digest}; the manifest says {expected.sha256}")
    return data


def _check_arrays(bundle: Bundle) -> None:
    manifest = bundle.manifest
    noise = bundle.calibration.get("noise")
    if noise is None or noise.shape != (manifest.num_draws, manifest.latent_size) or noise.dtype != np.float32:
        raise BundleError(
            f"{CALIBRATION}: noise must be float32 of shape ({manifest.num_draws}, {manifest.latent_size})"
        )
    for score in manifest.scores:
        held_out = bundle.calibration.get(score)
        if (
            held_out is None
            or held_out.dtype.kind != "f"
            or held_out.shape != (manifest.calibration.rows,)
            or not np.all(np.isfinite(held_out))
            or np.any(np.diff(held_out) < 0)
        ):
            raise BundleError(
                f"{CALIBRATION}: {score} must hold {manifest.calibration.rows} finite scores, sorted ascending"
            )
    if bundle.missing_cells:
        _check_missing_cells(bundle)
    for name, graph in manifest.graphs.items():
        named: dict[str, int] = {}
        for tensor in graph.inputs + graph.outputs:
            array = bundle.golden[name].get(tensor.name)
            if array is None or array.dtype != tensor.dtype or not _fits(array.shape, tensor.shape, named):
                raise BundleError(f"{GOLDEN}: {name}.{tensor.name} must be {tensor.dtype} of shape {tensor.shape}")
        if named.get("batch", 0) > MAX_GOLDEN_ROWS:
            raise BundleError(f"{GOLDEN}: {name} has {named['batch']:,} rows; at most {MAX_GOLDEN_ROWS:,} are computed")


def _check_missing_cells(bundle: Bundle) -> None:
    stored, data = bundle.missing_cells, bundle.manifest.input
    if not isinstance(data, TabularInput):
        raise BundleError(f"{MISSING_CELLS}: pictures have no missing cells")
    named = {"columns": len(data.columns)}
    indices: dict[str, tuple[str, tuple[str, ...]]] = {
        "patterns": ("b", ("patterns", "columns")),
        "counts": ("i", ("counts",)),
        "often": ("b", ("columns",)),
    }
    for name, (kind, shape) in indices.items():
        array = stored.get(name)
        if array is None or array.dtype.kind != kind or array.ndim != len(shape):
            raise BundleError(f"{MISSING_CELLS}: {name} must be an array of shape ({', '.join(shape)})")
        if any(size != named.setdefault(of, size) for size, of in zip(array.shape, shape, strict=True)):
            raise BundleError(f"{MISSING_CELLS}: {name} must have shape ({', '.join(shape)}), of {named}")
    parts = named["patterns"] + named["counts"]
    for score in bundle.manifest.scores:
        sizes, scores = stored.get(f"{score}.sizes"), stored.get(score)
        if sizes is None or sizes.dtype.kind != "i" or sizes.shape != (parts,) or np.any(sizes < 0) or not parts:
            raise BundleError(
                f"{MISSING_CELLS}: {score}.sizes must hold {parts} sizes, of at least one pattern or count"
            )
        total = sum(sizes.tolist())  # Of integers without a limit: NumPy's would overflow.
        if scores is None or scores.dtype != np.float64 or scores.shape != (total,):
            raise BundleError(f"{MISSING_CELLS}: {score} must hold {total} scores, float64")
        for part in np.split(scores, np.cumsum(sizes)[:-1]):
            if np.any(np.isnan(part)) or np.any(part[1:] < part[:-1]):
                raise BundleError(f"{MISSING_CELLS}: {score} must hold numbers, each part sorted ascending")


def _fits(shape: tuple[int, ...], wanted: tuple[int | str, ...], named: dict[str, int]) -> bool:
    """Whether a shape is the wanted one, without zeros; the first array with a named size fixes it for the others."""
    return len(shape) == len(wanted) and all(
        size == (named.setdefault(name, size) if isinstance(name, str) else name) > 0
        for size, name in zip(shape, wanted, strict=True)
    )
