"""A bundle is written whole or not at all, and lies where its manifest says."""

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.bundle import (
    MANIFEST,
    Manifest,
    describe_files,
    read_bundle,
    versions,
    write_bundle,
)
from service.engine import EngineFactory
from service.errors import BundleError
from service.inference import Limits, ModelLoader
from service.storage import LocalStore

Table = tuple[Manifest, dict[str, bytes]]

LIMITS = Limits(max_batch=64, max_queue=1024, max_draws=64, engine_threads=1, engine_timeout=30)


def test_a_published_version_is_never_overwritten(tmp_path: Path, table: Table) -> None:
    manifest, files = table
    folder = write_bundle(tmp_path, manifest, files)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    changed = files | {"README.md": b"changed"}
    with pytest.raises(BundleError, match="people/1 exists already"):
        write_bundle(tmp_path, manifest.model_copy(update={"files": describe_files(changed)}), changed)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_of_several_writers_at_once_the_first_one_publishes(tmp_path: Path, table: Table) -> None:
    start = threading.Barrier(8)

    def write(_: int) -> str:
        start.wait()
        try:
            return str(write_bundle(tmp_path, *table))
        except BundleError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(write, range(8)))
    folder = tmp_path / "people" / "1"
    assert sorted(said) == [str(folder), *7 * [f"{folder} exists already: a published version is never overwritten"]]
    assert list(folder.parent.iterdir()) == [folder]
    assert read_bundle(folder)


def test_the_manifest_must_describe_the_files(tmp_path: Path, table: Table) -> None:
    manifest, files = table
    for wrong in (files | {"more": b""}, {**files, "elbo.onnx": b"other"}, dict(list(files.items())[1:])):
        with pytest.raises(BundleError, match="does not describe these files"):
            write_bundle(tmp_path, manifest, wrong)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing(tmp_path: Path, table: Table) -> None:
    manifest, files = table
    files |= {"card": b"a file", "card/figure.png": b"which cannot be a folder too"}
    with pytest.raises(OSError, match="card"):
        write_bundle(tmp_path, manifest.model_copy(update={"files": describe_files(files)}), files)
    assert not list((tmp_path / "people").iterdir())
    assert versions(tmp_path) == {}


def test_files_may_lie_in_folders(tmp_path: Path, table: Table) -> None:
    manifest, files = table
    files |= {"card/README.md": b"# people"}
    folder = write_bundle(tmp_path, manifest.model_copy(update={"files": describe_files(files)}), files)
    assert read_bundle(folder).files["card/README.md"] == b"# people"


def test_what_a_crash_leaves_is_passed_over(tmp_path: Path, table: Table) -> None:
    folder = write_bundle(tmp_path, *table)
    shutil.copytree(folder, folder.parent / ".2-abc")  # Killed between the manifest and the rename.
    shutil.copytree(folder, folder.parent / "3", ignore=shutil.ignore_patterns(MANIFEST))
    for name in ("0", "01", "-1", "1.5", "latest"):
        shutil.copytree(folder, folder.parent / name)
    assert versions(tmp_path) == {"people": [1]}
    assert ModelLoader(LocalStore(tmp_path), None, EngineFactory("cpu"), LIMITS).registry.names() == {"people": [1]}


def test_a_repository_is_tried_without_a_trace(tmp_path: Path) -> None:
    LocalStore(tmp_path / "models").try_to_write("people")
    assert not list(tmp_path.iterdir())
    (tmp_path / "people").symlink_to("/proc")
    with pytest.raises(OSError, match=f"{tmp_path}/people"):
        LocalStore(tmp_path).try_to_write("people")


KILLED = """
import resource, signal, sys
from pathlib import Path
from service.bundle import read_bundle, write_bundle
bundle = read_bundle(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
write_bundle(Path(sys.argv[1]).parents[1], bundle.manifest.model_copy(update={"version": 2}), bundle.files)
"""
"""The system kills it at the first file of more than 500 bytes."""


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path, table: Table) -> None:
    manifest, files = table
    folder = write_bundle(tmp_path, manifest, files)
    (folder.parent / ".1-disabled").mkdir()  # By a user.
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert killed.returncode < 0
    (left,) = folder.parent.glob(".2-*")
    other = os.open(folder.parent, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_SH)  # As another writer does meanwhile.
    write_bundle(tmp_path, manifest.model_copy(update={"version": 2}), files)
    assert left.exists()
    os.close(other)
    write_bundle(tmp_path, manifest.model_copy(update={"version": 3}), files)
    assert sorted(path.name for path in folder.parent.iterdir()) == [".1-disabled", "1", "2", "3"]


def test_versions_are_numbers(tmp_path: Path, table: Table) -> None:
    manifest, files = table
    for version in (10, 9, 2):
        write_bundle(tmp_path, manifest.model_copy(update={"version": version}), files)
    assert versions(tmp_path) == {"people": [2, 9, 10]}
    assert versions(tmp_path / "nowhere") == {}


def test_a_repository_without_bundles_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BundleError, match=rf"{folder}: no bundle"):
            ModelLoader(LocalStore(folder), None, EngineFactory("cpu"), LIMITS)


def test_the_folder_of_a_model_or_a_version_shows_no_other(tmp_path: Path, table: Table) -> None:
    manifest, files = table
    for name, version in (("people", 1), ("people", 2), ("others", 1)):
        write_bundle(tmp_path, manifest.model_copy(update={"name": name, "version": version}), files)
    for path, names in (
        ("people", {"people": [1, 2]}),
        ("people/2", {"people": [2]}),
        (".", {"others": [1], "people": [1, 2]}),
    ):
        loader = ModelLoader(LocalStore.at(tmp_path / path), "people", EngineFactory("cpu"), LIMITS)
        assert loader.registry.names() == names


def test_where_no_folder_is_a_version_the_start_says_so(tmp_path: Path, table_bundle: Path) -> None:
    table_bundle.rename(table_bundle.parent / "01")
    for path in (tmp_path, tmp_path / "people", tmp_path / "people" / "01"):
        with pytest.raises(BundleError, match=r"people/01 is no version: give the folder a whole number"):
            ModelLoader(LocalStore.at(path), None, EngineFactory("cpu"), LIMITS)


def test_a_bundle_must_lie_where_it_says(tmp_path: Path, table_bundle: Path) -> None:
    shutil.copytree(table_bundle, tmp_path / "other" / "1")
    registry = ModelLoader(LocalStore(tmp_path), None, EngineFactory("cpu"), LIMITS).registry
    assert registry.names() == {"people": [1]}
    problem = "other/1: the manifest is that of people 1; `lowerbound promote` makes a new version of it"
    assert registry.refused == {"other": {"1": problem}}
    shutil.rmtree(table_bundle)
    with pytest.raises(BundleError, match=f"{tmp_path}/other/1: the manifest"):
        ModelLoader(LocalStore(tmp_path), None, EngineFactory("cpu"), LIMITS)
