"""A bundle is served whole and as it was written, or refused by name."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle import (
    CALIBRATION,
    GOLDEN,
    MANIFEST,
    Array,
    ImageInput,
    Manifest,
    read_bundle,
    write_arrays,
    write_bundle,
)
from service.bundle.arrays import read_arrays
from service.bundle.graphs import OPTIONAL_GRAPHS, REQUIRED_GRAPHS
from service.errors import BundleError
from service.inference import Limits
from service.storage import DEFAULT_REPOSITORY
from tests.service.bundle_versions import edit, replace
from tests.service.conftest import Refused

Table = tuple[Manifest, dict[str, bytes]]

LIMITS = Limits(max_batch=64, max_queue=1024, max_draws=64, engine_threads=1, engine_timeout=30)
DAMAGED_JSON = {
    "empty": b"",
    "truncated": b'{"format_version": "1.0", "name": "peo',
    "not UTF-8": b"\xff\xfe\x00",
    "a list": b"[1, 2]",
    "a number": b"1",
    "no version": b"{}",
    "nested": b"[" * 10**6,
}


def set_field(field: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.update({field: value})


def arrays_without(folder: Path, name: str, key: str, **others: Array) -> None:
    arrays = read_arrays((folder / name).read_bytes(), name)
    del arrays[key]
    replace(folder, name, write_arrays(arrays | others))


# Reading


def test_what_was_written_is_read(tmp_path: Path, table: Table) -> None:
    manifest, files = table
    folder = write_bundle(tmp_path, manifest, files)
    bundle = read_bundle(folder)
    assert folder == tmp_path / "people" / "1"
    assert bundle.manifest == manifest
    assert bundle.files == files
    assert bundle.digest == hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    assert {path.name for path in folder.iterdir()} == {*files, MANIFEST}


def test_the_default_bundle_is_whole() -> None:
    folder = DEFAULT_REPOSITORY / "digits" / "1"
    bundle = read_bundle(folder)
    real = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert real == {*bundle.files, MANIFEST}
    assert set(bundle.golden) == set(bundle.manifest.graphs) == {*REQUIRED_GRAPHS, *OPTIONAL_GRAPHS}


def test_a_missing_manifest_is_named(table_bundle: Path) -> None:
    (table_bundle / MANIFEST).unlink()
    with pytest.raises(BundleError, match=r"people/1/manifest\.json: cannot be read: No such file"):
        read_bundle(table_bundle)


def test_a_folder_of_bundles_is_no_bundle(table_bundle: Path) -> None:
    for folder in (table_bundle.parent, table_bundle.parents[1]):
        with pytest.raises(BundleError, match=rf"{folder}: is no bundle, but holds some, as {table_bundle}$"):
            read_bundle(folder)


@pytest.mark.parametrize("text", DAMAGED_JSON.values(), ids=DAMAGED_JSON.keys())
def test_a_damaged_manifest_is_refused(table_bundle: Path, text: bytes) -> None:
    (table_bundle / MANIFEST).write_bytes(text)
    with pytest.raises(BundleError, match=r"manifest\.json: not a manifest"):
        read_bundle(table_bundle)


@given(cut=st.integers(0, 4000))
def test_no_part_of_a_manifest_is_a_manifest(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = (DEFAULT_REPOSITORY / "digits" / "1" / MANIFEST).read_bytes()
    folder = tmp_path_factory.mktemp("cut")
    (folder / MANIFEST).write_bytes(whole[:cut])
    with pytest.raises(BundleError, match=r"manifest\.json"):
        read_bundle(folder)


@pytest.mark.parametrize("version", ["2.0", "0.9", "10.0", 2, 2.5])
def test_another_major_version_is_refused(table_bundle: Path, version: object) -> None:
    edit(table_bundle, set_field("format_version", version))
    with pytest.raises(BundleError, match=rf"manifest\.json: format_version is {version!r}; this service reads 1\.0"):
        read_bundle(table_bundle)


@pytest.mark.parametrize("version", [1.0, "1", "1.0.0", "1.x", True, None])
def test_a_version_must_be_written_as_one(table_bundle: Path, version: object) -> None:
    edit(table_bundle, set_field("format_version", version))
    with pytest.raises(BundleError, match=r"manifest\.json: format_version"):
        read_bundle(table_bundle)


def test_a_newer_minor_version_is_read_if_it_says_nothing_new(table_bundle: Path) -> None:
    edit(table_bundle, set_field("format_version", "1.7"))
    assert read_bundle(table_bundle).manifest.format_version == "1.7"
    edit(table_bundle, set_field("novelty", 1))
    with pytest.raises(BundleError, match=r"manifest\.json: novelty: Extra inputs are not permitted"):
        read_bundle(table_bundle)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (set_field("surprise", 1), "surprise: Extra"),
        (lambda d: d["input"].update(colour="grey"), r"input\.tabular\.colour: Extra"),
        (lambda d: d["files"]["encoder.onnx"].update(mode=7), r"files\.encoder\.onnx\.mode: Extra"),
        (set_field("name", "../etc"), "name: String should match"),
        (set_field("name", "People"), "name: String should match"),
        (set_field("version", 0), "version: Input should be greater"),
        (set_field("created", "2026-01-01T00:00:00"), "created: .*timezone"),
        (set_field("tolerance", 0), "tolerance: Input should be greater"),
        (set_field("seed", 2**32), "seed: Input should be less"),
        (set_field("prior", "x" * 1001), "prior: String should have at most 1000"),
        (set_field("default_score", "negative_log_evidence"), "default_score: .* not among the calibrated"),
        (set_field("scores", ["negative_elbo", "luck"]), "scores: luck unknown"),
        (set_field("metrics", {"elbo": float("nan")}), "metrics"),
        (lambda d: d["graphs"].pop("elbo"), "graphs: elbo missing"),
        (lambda d: d["graphs"].update(blur=d["graphs"]["elbo"]), "graphs: unknown graph 'blur'"),
        (set_field("default_score", "regret"), "default_score: 'regret' is not among"),
        (lambda d: d.update(scores=["negative_elbo", "regret"]), "scores: regret is calibrated with a refine graph"),
        (lambda d: d.update(scores=["negative_elbo", "typicality"]), "scores: no graph gives typicality"),
        (lambda d: d["graphs"]["decoder"]["outputs"][0].update(dtype="float32"), r"graphs\.decoder: must be"),
        (set_field("latent_size", 3), r"graphs\.encoder: must be"),
        (lambda d: d["files"].pop("golden.npz"), r"files: golden\.npz missing"),
        (lambda d: d["files"]["elbo.onnx"].update(sha256="0"), r"files\.elbo\.onnx\.sha256: String should match"),
        (lambda d: d["files"]["elbo.onnx"].update(size=-1), r"files\.elbo\.onnx\.size: Input should be greater"),
        (lambda d: d["input"]["columns"].append(d["input"]["columns"][0]), "two columns have the same name"),
        (lambda d: d["input"]["columns"][1].update(categories=[]), r"categories: .* at least 1"),
    ],
)
def test_a_wrong_field_is_named(table_bundle: Path, change: Callable[[dict[str, Any]], object], named: str) -> None:
    edit(table_bundle, change)
    with pytest.raises(BundleError, match=rf"manifest\.json: .*{named}"):
        read_bundle(table_bundle)


@pytest.mark.parametrize(
    "wrong",
    [
        {"low": 1.0, "high": 1.0},
        {"low": -1.0},
        {"high": 256.0},
        {"shape": (2, 2, 2)},
        {"shape": (10**9, 10**9)},
        {"shape": (0, 2)},
        {"shape": (4,)},
        {"dtype": "float16"},
        {"high": float("inf"), "dtype": "float32"},
    ],
)
def test_impossible_pictures_are_refused(wrong: dict[str, Any]) -> None:
    right = {"shape": (2, 2, 3), "dtype": "uint8", "low": 0.0, "high": 255.0}
    assert ImageInput.model_validate(right).features[:4] == ("[0][0][0]", "[0][0][1]", "[0][0][2]", "[0][1][0]")
    with pytest.raises(ValueError, match="ImageInput"):
        ImageInput.model_validate(right | wrong)


@pytest.mark.parametrize("name", ["encoder.onnx", CALIBRATION, GOLDEN])
def test_a_missing_file_is_named(table_bundle: Path, name: str) -> None:
    (table_bundle / name).unlink()
    with pytest.raises(BundleError, match=rf"people/1/{name}: cannot be read"):
        read_bundle(table_bundle)


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx", "elbo.onnx", CALIBRATION, GOLDEN])
def test_one_changed_bit_is_noticed(table_bundle: Path, name: str) -> None:
    data = bytearray((table_bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (table_bundle / name).write_bytes(data)
    with pytest.raises(BundleError, match=rf"people/1/{name}: SHA-256 is [0-9a-f]{{64}}; the manifest says"):
        read_bundle(table_bundle)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_another_size_is_noticed(table_bundle: Path, change: Callable[[bytes], bytes]) -> None:
    path = table_bundle / "encoder.onnx"
    data = path.read_bytes()
    path.write_bytes(change(data))
    with pytest.raises(BundleError, match=rf"encoder\.onnx: {len(change(data))} bytes; the manifest says {len(data)}"):
        read_bundle(table_bundle)


# Arrays


@pytest.mark.parametrize(
    "noise",
    [np.zeros((4, 3), np.float32), np.zeros((3, 2), np.float32), np.zeros((4, 2)), np.zeros(8, np.float32)],
    ids=["latents", "draws", "dtype", "rank"],
)
def test_the_noise_bank_must_fit(table_bundle: Path, noise: Array) -> None:
    arrays_without(table_bundle, CALIBRATION, "noise", noise=noise)
    with pytest.raises(BundleError, match=r"people/1: calibration\.npz: noise must be float32 of shape \(4, 2\)"):
        read_bundle(table_bundle)


@pytest.mark.parametrize(
    "scores",
    [
        *([2.0, 1.0], [1.0, np.nan], [np.nan], [1.0, np.inf], [-np.inf, 1.0], [], [[1.0, 2.0]], 1.0),
        *([False] * 99, np.arange(99, dtype=np.uint8)),
    ],
)
def test_held_out_scores_must_be_sorted_and_finite(table_bundle: Path, scores: Any) -> None:
    arrays_without(table_bundle, CALIBRATION, "negative_elbo", negative_elbo=np.array(scores))
    with pytest.raises(BundleError, match=r"calibration\.npz: negative_elbo must hold 99 finite scores"):
        read_bundle(table_bundle)


@pytest.mark.parametrize(
    ("name", "key"), [(CALIBRATION, "noise"), (CALIBRATION, "negative_elbo"), (GOLDEN, "elbo.ess")]
)
def test_an_absent_array_is_named(table_bundle: Path, name: str, key: str) -> None:
    arrays_without(table_bundle, name, key)
    with pytest.raises(BundleError, match=rf"people/1: {name}: {key} must"):
        read_bundle(table_bundle)


@pytest.mark.parametrize(
    ("key", "array"),
    [
        ("elbo.x", np.zeros((3, 2), np.float32)),
        ("elbo.x", np.zeros((3, 3))),
        ("elbo.x", np.zeros((4, 2))),
        ("elbo.x", np.zeros(3)),
        ("elbo.elbo", np.zeros(2)),
        ("encoder.mean", np.zeros((3, 1), np.float32)),
        ("decoder.z", np.zeros((0, 2), np.float32)),
    ],
)
def test_golden_arrays_must_fit_their_graphs(table_bundle: Path, key: str, array: Array) -> None:
    arrays_without(table_bundle, GOLDEN, key, **{key: array})
    with pytest.raises(BundleError, match=rf"people/1: golden\.npz: {key.partition('.')[0]}\.\w+ must be \w+ of shape"):
        read_bundle(table_bundle)


def test_golden_rows_there_must_be(table_bundle: Path) -> None:
    arrays = read_arrays((table_bundle / GOLDEN).read_bytes(), GOLDEN)
    replace(table_bundle, GOLDEN, write_arrays({key: array[:0] for key, array in arrays.items()}))
    with pytest.raises(BundleError, match=r"golden\.npz: encoder\.x must be"):
        read_bundle(table_bundle)


def test_golden_rows_are_few(table_bundle: Path) -> None:
    arrays = read_arrays((table_bundle / GOLDEN).read_bytes(), GOLDEN)
    many = {key: np.repeat(array, 500, 0) for key, array in arrays.items() if key.startswith("encoder.")}
    replace(table_bundle, GOLDEN, write_arrays(arrays | many))
    with pytest.raises(BundleError, match=r"golden\.npz: encoder has 1,500 rows; at most 1,024 are computed"):
        read_bundle(table_bundle)


def test_a_golden_array_of_no_graph_is_named(table_bundle: Path) -> None:
    arrays_without(table_bundle, GOLDEN, "elbo.ess", **{"draw.ess": np.zeros(3)})
    with pytest.raises(BundleError, match=r"golden\.npz: 'draw\.ess' belongs to no graph"):
        read_bundle(table_bundle)


@pytest.mark.parametrize("data", [b"", b"not a zip", b"PK\x03\x04 truncated"])
@pytest.mark.parametrize("name", [CALIBRATION, GOLDEN])
def test_damaged_arrays_are_refused(table_bundle: Path, name: str, data: bytes) -> None:
    replace(table_bundle, name, data)
    with pytest.raises(BundleError, match=rf"people/1: {name}: not a readable \.npz"):
        read_bundle(table_bundle)


class Bomb:
    """Unpickled, it leaves its mark."""

    marks: ClassVar[list[str]] = []

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return Bomb.marks.append, ("unpickled",)


def test_nothing_is_ever_unpickled(table_bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "bomb.npz", noise=np.array([Bomb()], object))
    replace(table_bundle, CALIBRATION, (tmp_path / "bomb.npz").read_bytes())
    with pytest.raises(BundleError, match=r"calibration\.npz: not a readable \.npz file: Object arrays"):
        read_bundle(table_bundle)
    assert not Bomb.marks


# The process


def damage_byte(folder: Path) -> str:
    data = bytearray((folder / "elbo.onnx").read_bytes())
    data[100] ^= 1
    (folder / "elbo.onnx").write_bytes(data)
    return "elbo.onnx: SHA-256"


def damage_version(folder: Path) -> str:
    edit(folder, set_field("format_version", "2.0"))
    return "manifest.json: format_version is '2.0'"


def damage_golden(folder: Path) -> str:
    arrays_without(folder, GOLDEN, "elbo.x", **{"elbo.x": np.zeros((3, 5))})
    return "golden.npz: elbo.x must be"


@pytest.mark.parametrize("damage", [damage_byte, damage_version, damage_golden])
def test_the_server_does_not_start_on_a_damaged_bundle(
    table_bundle: Path, refused: Refused, damage: Callable[[Path], str]
) -> None:
    named = damage(table_bundle)
    process = refused("--models", str(table_bundle.parent.parent))
    assert process.returncode == 1
    assert process.stderr.count("\n") == 1, process.stderr
    assert process.stderr.startswith("error: ")
    assert named in process.stderr
    assert str(table_bundle.parent.parent) in process.stderr
