"""A file of a bundle is a plain file of a plain name and of a size that is known before it is read."""

import ast
import io
import os
import shutil
import socket
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle import (
    GOLDEN,
    MANIFEST,
    SIGNATURE,
    BundleFolder,
    TrustedKeys,
    read_bundle,
    write_arrays,
)
from service.bundle.arrays import read_arrays
from service.bundle.folder import check_files
from service.errors import BundleError
from tests.service.bundle.test_bundle import set_field
from tests.service.bundle_versions import edit


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "card/../../secret",
        "/etc/passwd",
        "no\0path",
        "",
        ".",
        "card",
        "card/",
        "a" * 101,
        "elbo.onnx/x",
        "card/deep/er",
        ".hidden",
        "line\n",
        "manifest.json",
        "manifest.sig",
        "MANIFEST.SIG",
        "ELBO.onnx",
        "é.bin",
    ],
)
def test_files_have_plain_names(name: str) -> None:
    check_files({"elbo.onnx": 6, "card/index.html": 6})
    with pytest.raises(ValueError, match=r"files: '.*' is (no plain name|taken by another file)"):
        check_files({"elbo.onnx": 6, name: 6})


def test_a_wrong_name_is_named(table_bundle: Path) -> None:
    edit(table_bundle, lambda document: document["files"].update({"../x": document["files"]["elbo.onnx"]}))
    with pytest.raises(BundleError, match=r"manifest\.json: .*files: '\.\./x' is no plain name"):
        read_bundle(table_bundle)


def link(file: Path) -> None:
    shutil.move(file, file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def link_to_itself(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def dangle(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def make_device(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def make_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def make_socket(file: Path) -> None:
    file.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(file))


def make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def make_endless(file: Path) -> None:
    """As long as no reader would wait for, and on the disk of no size at all."""
    os.truncate(file, 2**42)


NO_FILES = {
    link: "is a symbolic link",
    link_to_itself: "is a symbolic link",
    dangle: "is a symbolic link",
    make_device: "is a symbolic link",
    make_pipe: "is no plain file",
    make_socket: "is no plain file",
    make_folder: "is no plain file",
    make_endless: "bytes; ",
}
"""Things that may lie in a file's place, each with the beginning of its error."""


@pytest.mark.parametrize("change", NO_FILES)
def test_only_plain_files_are_read(
    change: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"12345678")
    with BundleFolder(tmp_path) as folder:
        assert folder.read("file", 8) == b"12345678"
        change(tmp_path / "file")
        with pytest.raises(BundleError, match=rf"{tmp_path}/file: .*{NO_FILES[change]}"):
            folder.read("file", 8)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no file here has more bytes than it says")
def test_a_file_of_more_bytes_than_it_says_is_refused() -> None:
    with BundleFolder(Path("/proc/self")) as folder, pytest.raises(BundleError, match="it changes while it is read"):
        folder.read("status", 100)


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE, "elbo.onnx", GOLDEN])
def test_no_file_of_a_bundle_may_be_a_pipe(table_bundle: Path, name: str) -> None:
    (table_bundle / SIGNATURE).write_bytes(bytes(64))
    make_pipe(table_bundle / name)
    with pytest.raises(BundleError, match=rf"people/1/{name}: is no plain file"):
        read_bundle(table_bundle, TrustedKeys([]) if name == SIGNATURE else None)


def test_no_folder_within_is_a_link(table_bundle: Path) -> None:
    outside = table_bundle.parent / "outside"
    outside.mkdir()
    shutil.copy(table_bundle / "encoder.onnx", outside / "encoder.onnx")
    (table_bundle / "card").symlink_to(outside)
    edit(table_bundle, lambda d: d["files"].update({"card/encoder.onnx": d["files"]["encoder.onnx"]}))
    with pytest.raises(BundleError, match=r"card/encoder\.onnx: cannot be read: "):
        read_bundle(table_bundle)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d["files"]["elbo.onnx"].update(size=2**33), "files: 8,5.* bytes; at most 4,294,967,296 are read"),
        (lambda d: d["files"].update({f"f{i}": d["files"]["elbo.onnx"] for i in range(1000)}), "files: 1,005; at most"),
        (set_field("latent_size", 10**9), "latent_size: Input should be less"),
        (set_field("version", 10**12), "version: Input should be less"),
        (set_field("recipe", [[]] * 4 * 2**20), r"bytes; at most 4,194,304 are read"),
    ],
)
def test_sizes_are_checked_before_contents(
    table_bundle: Path, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    edit(table_bundle, change)
    with pytest.raises(BundleError, match=named):
        read_bundle(table_bundle)


def packed(arrays: dict[str, tuple[Any, int]], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """The bytes of an .npz file in which each array has the shape that is said, and so many zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, (shape, zeros) in arrays.items():
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
            archive.writestr(f"{name}.npy", header.getvalue() + bytes(zeros))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: packed({"noise": ((2**26,), 2**29)}),
            "its arrays have 536,871,.* bytes; at most 268,435,456 are read",
        ),
        (lambda: packed({"noise": ((10**12,), 8)}), "'noise.npy' has another size than its shape"),
        (lambda: packed({"noise": ((-1, -1), 8)}), "not a readable"),
        (lambda: packed({"noise": ((1,), 8)}, zipfile.ZIP_LZMA), "packed in a way that NumPy does not use"),
        (lambda: packed({f"a{i}": ((1,), 8) for i in range(257)}), "more than 256 arrays"),
    ],
    ids=["unpacks", "claims", "negative", "lzma", "many"],
)
def test_arrays_are_measured_before_they_are_read(make: Callable[[], bytes], said: str) -> None:
    data = make()
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=said):
            read_arrays(data, GOLDEN)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_arrays_are_read_without_python_s_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy reads headers by it, and in Python 3.11 it fails where another thread parses too."""

    def fail(*_: object, **__: object) -> object:
        raise SystemError("AST constructor recursion depth mismatch")

    arrays = {
        "rows": np.arange(6.0, dtype=np.float32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "none": np.zeros((0, 4)),
        "one": np.array(True),
        "big-endian": np.arange(3, dtype=">i4"),
    }
    data = write_arrays(arrays)
    monkeypatch.setattr(ast, "literal_eval", fail)
    read = read_arrays(data, GOLDEN)
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype
        assert read[name].flags.writeable


def test_the_files_of_a_secret_are_named_as_links(table_bundle: Path) -> None:
    """Kubernetes mounts each file of a Secret as a link into a hidden folder."""
    (table_bundle / "..data").mkdir()
    (table_bundle / MANIFEST).rename(table_bundle / "..data" / MANIFEST)
    (table_bundle / MANIFEST).symlink_to(f"..data/{MANIFEST}")
    with pytest.raises(BundleError, match=r"/manifest\.json: is a symbolic link; a bundle has plain files only$"):
        read_bundle(table_bundle)
