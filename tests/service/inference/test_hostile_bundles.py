"""Bundles that wish the service ill: each is refused and listed with its reason, and stops nothing else."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from service.bundle import GOLDEN, MANIFEST
from tests.conftest import process_of, run_server
from tests.service import bundle_versions
from tests.service.bundle_versions import NAME, publish, replace
from tests.service.inference.test_loader import elbo, models

ENCODER = """
    <ir_version: 10, opset_import: ["" : 20]>
    encoder (double[batch, 6] x) => (float[batch, 2] mean, float[batch, 2] log_variance) {{
        two = Constant <value = int64[2] {{0, 1}}> ()
        narrow = Cast <to = 1> (x)
        log_variance = Gather <axis = 1> (narrow, two)
        {body}
    }}"""

FOR_EVER = """
        most = Constant <value = int64 {9223372036854775807}> ()
        go = Constant <value = bool {1}> ()
        mean = Loop (most, go, log_variance) <body = step (int64 i, bool on, float[batch, 2] a)
            => (bool still, float[batch, 2] b) { still = Identity (on) b = Add (a, a) }>"""

CONSTANT_BOMB = """
        size = Constant <value = int64[1] {200000000000}> ()
        many = ConstantOfShape (size)
        one = ReduceMax <keepdims = 0> (many)
        mean = Add (log_variance, one)"""

EXPANDED_BOMB = """
        rows = Shape <start = 0, end = 1> (x)
        most = Constant <value = int64[1] {20000000000}> ()
        size = Concat <axis = 0> (most, rows)
        column = Gather <axis = 1> (narrow, zero)
        zero = Constant <value = int64 {0}> ()
        wide = Expand (column, size)
        one = ReduceMax <keepdims = 0> (wide)
        mean = Add (log_variance, one)"""

WRONG_SHAPE = """
        zero = Constant <value = int64[1] {0}> ()
        one = Constant <value = int64[1] {1}> ()
        rows = Shape <start = 0, end = 1> (x)
        fewer = Sub (rows, one)
        mean = Slice (log_variance, zero, fewer, zero)"""


def graph(body: str) -> Callable[[Path], None]:
    """Put another encoder in."""

    def change(folder: Path) -> None:
        model = onnx.parser.parse_model(ENCODER.format(body=body))
        replace(folder, "encoder.onnx", model.SerializeToString())

    return change


def in_place_of(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return change


def as_folder(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        shutil.rmtree(folder)
        make(folder)

    return change


def edit(change: Callable[[Any], object]) -> Callable[[Path], None]:
    return lambda folder: bundle_versions.edit(folder, change)


def unpack_to_much(folder: Path) -> None:
    with (folder / GOLDEN).open("wb") as file:
        np.savez_compressed(file, **{"encoder.x": np.zeros((2**23, 6))})
    replace(folder, GOLDEN, (folder / GOLDEN).read_bytes())


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "for ever": (graph(FOR_EVER), "is not read and its golden rows answered in 3 seconds"),
    "constant bomb": (graph(CONSTANT_BOMB), "encoder.onnx: "),
    "expanded bomb": (graph(EXPANDED_BOMB), "encoder.onnx: "),
    "wrong shape": (graph(WRONG_SHAPE), "on cpu the golden mean has shape ("),
    "pipe": (in_place_of(MANIFEST, os.mkfifo), "is no plain file"),
    "folder": (in_place_of(MANIFEST, Path.mkdir), "is no plain file"),
    "device": (in_place_of(MANIFEST, lambda path: path.symlink_to("/dev/zero")), "is a symbolic link"),
    "itself": (in_place_of(MANIFEST, lambda path: path.symlink_to(MANIFEST)), "is a symbolic link"),
    "dangling": (in_place_of(MANIFEST, lambda path: path.symlink_to("nowhere")), "is a symbolic link"),
    "graph a pipe": (in_place_of("elbo.onnx", os.mkfifo), "elbo.onnx: is no plain file"),
    "loop of links": (as_folder(lambda path: path.symlink_to(path.name)), "Too many levels of symbolic links"),
    "leads nowhere": (as_folder(lambda path: path.symlink_to("nowhere")), "No such file or directory"),
    "no folder": (as_folder(os.mkfifo), "Not a directory"),
    "link beside": (lambda path: (path / "loop").symlink_to("loop"), ""),
    "golden bomb": (unpack_to_much, "golden.npz: not a readable .npz file: its arrays have 402,653,"),
    "long manifest": (lambda path: os.truncate(path / MANIFEST, 2**40), "at most 4,194,304 are read"),
    "a key twice": (
        lambda path: (path / MANIFEST).write_text((path / MANIFEST).read_text().replace("{", '{"name": "other",', 1)),
        "the key 'name' occurs twice",
    ),
    "terminal": (edit(lambda d: d["files"].update({"\x1b[2J\n": d["files"][GOLDEN]})), "is no plain name"),
    "texts that unpack": (
        edit(lambda d: d["input"].update(text={"encoding": "bz2_codec"})),
        "'bz2_codec' is no encoding of texts",
    ),
    "many markers": (
        edit(lambda d: d["input"].update(missing=["?"] * 500_000)),
        "input.tabular.missing: Tuple should have at most 1000 items",
    ),
    "huge picture": (
        edit(lambda d: d.update(input={"kind": "image", "shape": [10**6] * 2, "dtype": "uint8", "low": 0, "high": 9})),
        "shape: ",
    ),
}
"""Ways to be hostile, and what is said of each; of one that is none, nothing."""

MISNAMED = ("01", "1e3", "+1", "\u0663", " 1", "0", "1000000000", "latest")
"""Names of folders that Python or a person may take for a version's."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of a good version, and of one of each way to be hostile, from version 2 on."""
    folder = tmp_path_factory.mktemp("hostile") / "models"
    publish(folder, 1)
    for version, (change, _) in enumerate(HOSTILE.values(), 2):
        shutil.copytree(folder / NAME / "1", folder / NAME / str(version))
        edit(lambda document, version=version: document.update(version=version))(folder / NAME / str(version))
        change(folder / NAME / str(version))
    for name in MISNAMED:
        shutil.copytree(folder / NAME / "1", folder / NAME / name)
    (folder / "loop").symlink_to("loop")
    (folder / "Not A\nName" / "1").mkdir(parents=True)
    shutil.copytree(folder / NAME / "1", folder / "Not A\nName" / "1", dirs_exist_ok=True)
    return folder


def assert_refused(found: Any, folder: Path) -> None:
    reasons = dict(enumerate((said for _, said in HOSTILE.values()), 2))
    good = [1, *(version for version, said in reasons.items() if not said)]
    assert found["models"] == {NAME: good}
    refused = found["refused"]
    assert refused.keys() == {NAME, "loop", "Not A\\nName"}
    assert "Too many levels" in refused["loop"]["0"]
    assert "the manifest is that of mine 1" in refused["Not A\\nName"]["1"]
    wrong = {v: refused[NAME].get(str(v)) for v, said in reasons.items() if said not in refused[NAME].get(str(v), "")}
    assert not wrong
    assert {*MISNAMED} == {name for name, said in refused[NAME].items() if "a whole number from 1 to 999999999" in said}
    assert str(folder) not in json.dumps(refused)


def test_each_is_refused_while_the_service_serves_and_when_it_starts(hostile: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(hostile / NAME / "1", folder / NAME / "1")
    options = ("--models", str(folder), "--engine-timeout", "3", "--poll", "0.1", "--engine-threads", "1")
    with run_server(*options, log=tmp_path / "log") as client:
        before = elbo(client)
        move(hostile, folder)
        slowest = 0.0
        due = time.monotonic() + 120
        while (
            len(models(client)["refused"].get(NAME, {})) < len(HOSTILE) - 1 + len(MISNAMED) and time.monotonic() < due
        ):
            began = time.monotonic()
            assert elbo(client, f"/models/{NAME}/versions/1").content == before.content
            assert client.get("/health/ready").is_success
            slowest = max(slowest, time.monotonic() - began)
        assert_refused(models(client), folder)
        assert slowest < 2
        peak = int(Path(f"/proc/{process_of(client)}/status").read_text().split("VmHWM:")[1].split()[0])
        assert peak < 400_000  # KiB
    with run_server(*options, log=tmp_path / "log again") as client:
        assert_refused(models(client), folder)
        assert elbo(client, f"/models/{NAME}/versions/1").content == before.content
    assert "\x1b" not in (tmp_path / "log").read_text() + (tmp_path / "log again").read_text()


def move(hostile: Path, folder: Path) -> None:
    """Put all that is in one repository into another, links and pipes as they are."""
    for model in hostile.iterdir():
        if model.is_symlink():
            (folder / model.name).symlink_to(model.readlink())
            continue
        for version in model.iterdir():
            target = folder / model.name / version.name
            target.parent.mkdir(exist_ok=True)
            if not os.path.lexists(target):
                version.rename(target)
