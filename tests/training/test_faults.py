"""A disk that takes no more, or nothing at all: the trainer says so, leaves no half bundle, and goes on afterwards."""

import os
import re
import resource
import sys
from pathlib import Path

import pytest
from rich.console import Console

from service.bundle import read_bundle
from tests.training.conftest import QUICK, run, run_here, start
from training.recipes import Recipe
from training.runs import open_run
from training.train import export_run

if sys.platform != "linux":
    pytest.skip("limits are set from outside", allow_module_level=True)


@pytest.fixture
def _uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines run are not counted here: what counts them writes a file of its own, which the limit would stop as well."""
    for name in [name for name in os.environ if name.startswith("COVERAGE")]:
        monkeypatch.delenv(name)


def interrupted(folder: Path, most: int, *arguments: str) -> str:
    """The errors of a run that may write no file of more than so many bytes."""
    with start(*arguments, folder=folder) as process:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    assert "Traceback" not in errors
    return errors


@pytest.mark.slow
@pytest.mark.usefixtures("_uncounted", "uninterrupted")  # Its graphs are in the cache, in which a full disk keeps none.
def test_a_full_disk_leaves_no_half_bundle(tmp_path: Path, few_rows: Path) -> None:
    arguments = ("arrays", "--data", str(few_rows), *QUICK)
    assert "run.json: cannot be written" in interrupted(tmp_path, 500, *arguments)
    assert "no run to resume" in interrupted(tmp_path, 500, *arguments, "--resume")
    assert "best.safetensors: cannot be written" in interrupted(tmp_path, 1_800, *arguments)
    full = interrupted(tmp_path, 100_000, *arguments, "--resume")
    assert re.search(r"File too large: '.*/models/rows/\.1-.*/", full), full
    assert (tmp_path / "runs" / "rows" / "2" / "best.safetensors").exists()
    assert not list((tmp_path / "models").rglob("manifest.json"))
    status, output, errors = run(*arguments, "--resume", folder=tmp_path)
    assert status == 0, errors
    assert read_bundle(Path(output.strip())).manifest.version == 1
    assert [path.name for path in (tmp_path / "models" / "rows").iterdir()] == ["1"]


def test_a_disk_that_cannot_be_written_is_named_before_the_training(tmp_path: Path, few_rows: Path) -> None:
    (tmp_path / "models").symlink_to("/proc")
    status, output, errors = run_here("arrays", "--data", str(few_rows), *QUICK, folder=tmp_path)
    assert status == 1
    assert not output
    assert "Traceback" not in errors
    assert "models/rows" in errors
    assert not list(tmp_path.glob("runs"))


def test_so_is_one_before_an_export_reads_the_data(tmp_path: Path) -> None:
    recipe = Recipe.read("arrays", ["--data", str(tmp_path / "gone.npy"), "--runs", str(tmp_path / "runs")])
    (tmp_path / "models").symlink_to("/proc")
    with pytest.raises(OSError, match=f"{tmp_path}/models/gone"):
        export_run(open_run(recipe, ""), None, tmp_path / "models", Console(quiet=True))
