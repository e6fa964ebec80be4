"""Imports keep their contracts, and nothing of training or of Ray is needed to serve."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import numpy as np
import pytest

import service

ROOT = Path(service.__file__).parent
FORBIDDEN = ("torch", "training", "onnx", "sklearn", "accelerate")

ON_RAY = {"ray_serve.deployment", "ray_serve.metrics", "ray_serve.autoscaling", "bulk.on_ray"}
"""The modules that know of Ray; on one machine none of them is imported."""


def modules() -> dict[str, Path]:
    """Every module of the service but the packages' own, which only hold a docstring."""
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
    return {name: path for name, path in paths.items() if not name.endswith("__init__")}


def test_imports_keep_the_contracts() -> None:
    """The contracts are in `pyproject.toml`."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_imports_follow_the_arrows_of_the_picture() -> None:
    page = (ROOT.parent / "docs" / "architecture.md").read_text()
    drawn = set(re.findall(r"^ {4}(\w+) --> (\w+)$", page.split("```mermaid")[1], re.MULTILINE))
    shown = {package for arrow in drawn for package in arrow}
    assert shown == {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"client"} | {"errors", "training"}
    code = grimp.build_graph("service", "training")
    imports = {
        (a, b)
        for module in code.modules
        for imported in code.find_modules_directly_imported_by(module)
        if (a := package_of(module)) != (b := package_of(imported)) and {a, b} <= shown
    }
    assert drawn <= imports
    paths = drawn
    for middle in shown:
        paths = paths | {(a, b) for a, m in paths if m == middle for n, b in paths if n == middle}
    assert imports <= paths


def package_of(module: str) -> str:
    top, *parts = module.split(".")
    return parts[0] if parts and top == "service" else top


def test_every_package_is_installed() -> None:
    """A checkout has them all; what `pip install .` copies is a list in `pyproject.toml`."""
    told = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    parts = [
        path.parent.relative_to(ROOT.parent).parts
        for top in ("service", "training")
        for path in (ROOT.parent / top).rglob("__init__.py")
    ]
    lying = {".".join(part) for part in parts} - {"service.client"}
    assert set(told) == lying | {"lowerbound"}


HOOK = """
import importlib.abc, runpy, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(name + " must not be imported", name=name)

sys.meta_path.insert(0, Refuse())
"""


def run(code: str, *allowed: str) -> subprocess.CompletedProcess[str]:
    refused = {*FORBIDDEN, "ray"} - set(allowed)
    command = [sys.executable, "-c", HOOK.format(names=refused) + code]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("name", ["torch", "training.recipes", "ray.data"])
def test_the_hook_refuses(name: str) -> None:
    assert f"{name.partition('.')[0]} must not be imported" in run(f"import {name}").stderr


def test_the_service_runs_where_training_and_ray_cannot_be_imported() -> None:
    names = ", ".join(f"service.{name}" for name in modules() if not name.endswith("__main__") and name not in ON_RAY)
    process = run(f"import {names}\nservice.api.app.create_app(service.settings.Settings())\nprint('made')")
    assert (process.returncode, process.stdout, process.stderr) == (0, "made\n", "")


def test_the_command_line_runs_where_training_and_ray_cannot_be_imported() -> None:
    process = run("sys.argv = ['service', '--help']\nrunpy.run_module('service', run_name='__main__')")
    assert process.returncode == 0, process.stderr
    for option in ("--models", "--device", "--max-queue", "--timeout", "--default-model"):
        assert option in process.stdout


def test_files_are_scored_where_training_and_ray_cannot_be_imported(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5, 8, 8), np.uint8))
    model = ROOT / "models" / "digits" / "1"
    arguments = ["lowerbound", "score", *map(str, (model, tmp_path / "x.npy", tmp_path / "out"))]
    code = "sys.argv = {}\nrunpy.run_module('service.cli', run_name='__main__')"
    process = run(code.format(arguments))
    assert (process.returncode, process.stderr.splitlines()[-1]) == (0, f"{arguments[-1]}: 5 rows")
    process = run(code.format([*arguments[:-1], str(tmp_path / "many"), "--cluster", "auto"]))
    assert process.returncode == 1
    assert "pip install 'lowerbound[cluster]' (ray must not be imported)" in process.stderr


@pytest.mark.slow
def test_ray_is_used_where_training_cannot_be_imported() -> None:
    names = ", ".join(f"service.{name}" for name in sorted(ON_RAY))
    process = run(f"import {names}\nprint('imported')", "ray")
    assert (process.returncode, process.stdout) == (0, "imported\n"), process.stderr


def test_a_missing_extra_is_named() -> None:
    process = run("import service.cli\nsys.exit(service.cli.main(['export', 'runs/digits/1']))")
    message = "error: export needs the module 'training': pip install 'lowerbound[train]'\n"
    assert (process.returncode, process.stderr) == (1, message)
