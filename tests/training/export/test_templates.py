"""Keys of traced graphs: all that a graph depends on beside its weights' values changes them."""

import os
import resource
from pathlib import Path

import onnx
import pytest
from torch import nn

from service.bundle import NumericColumn, TabularInput
from service.bundle.graphs import graph_contract
from training.export import templates
from training.export.onnx import _process
from training.export.templates import structure_key

COLUMNS = TabularInput(columns=(NumericColumn(name="a"), NumericColumn(name="b")))


def test_a_key_is_of_the_structure_the_contract_and_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, linear = graph_contract("encoder", COLUMNS, 2), nn.Linear(2, 4)
    key = structure_key(linear, graph)
    assert structure_key(nn.Linear(2, 4), graph) == key  # With other weights.
    others = [
        structure_key(nn.Linear(2, 4, bias=False), graph),
        structure_key(nn.Linear(2, 6), graph),
        structure_key(nn.Sequential(linear, nn.Tanh()), graph),
        structure_key(linear, graph_contract("encoder", COLUMNS, 3)),
        structure_key(linear, graph_contract("decoder", COLUMNS, 2)),
    ]
    monkeypatch.setattr(templates, "_code", lambda: "other code")
    others.append(structure_key(linear, graph))
    assert len({key, *others}) == 7


def test_a_template_is_kept_though_another_process_removes_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "lowerbound" / "graphs"
    folder.mkdir(parents=True)
    (folder / "listed.onnx").symlink_to("removed")  # As a file that is gone by the time its age is asked.
    templates.write_template("new", onnx.ModelProto())
    assert (folder / "new.onnx").exists()
    assert not caplog.records


def test_an_empty_template_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    templates.write_template("key", onnx.ModelProto())
    assert templates.read_template("key") is None
    assert "key.onnx: cannot be read, and is traced again: " in caplog.text


def test_the_oldest_templates_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(templates, "KEPT", 2)
    folder = tmp_path / "lowerbound" / "graphs"
    for age, key in enumerate(("third", "first", "second")):
        templates.write_template(key, onnx.ModelProto())
        os.utime(folder / f"{key}.onnx", (age, age))
    templates.write_template("new", onnx.ModelProto())
    assert sorted(path.stem for path in folder.iterdir()) == ["new", "second"]


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**30)
    assert templates.read_template("key") is None
    templates.write_template("key", onnx.ModelProto())
    assert caplog.messages == ["the traced graphs cannot be kept: the user has no home directory; set XDG_CACHE_HOME"]


def test_where_no_lock_can_be_made_there_is_no_other_process() -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # As /dev/shm is for a lock where it is read-only.
    try:
        assert _process() is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
