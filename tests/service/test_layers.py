"""Imports point downward only, and nothing of training is among them."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import service

ROOT = Path(service.__file__).parent
FORBIDDEN = ("torch", "training", "onnx", "sklearn", "accelerate")

ON_RAY = {"cluster.deployment", "cluster.exporter", "cluster.scaling", "bulk.cluster"}
"""The modules that know of Ray; on one machine none of them is imported."""

LAYERS = [
    {"errors", "calibration", "noise", "logs", "process", "threads", "compression"},
    {"manifest", "signature", "drift", "tracing"},
    {"bundle"},
    {"readers.numbers", "readers.times"},
    {"readers.columns"},
    {"devices", "arrow", "instances", "refinement", "counterfactuals", "plan", "storage"},
    {"engine", "buffers", "remote"},
    {"batcher", "codecs", "buffered", "fleet", "mirror"},
    {"watchdog", "placement"},
    {"model"},
    {"catalogue", "exposition"},
    {"repository"},
    {"telemetry"},
    {"schemas", "settings", "exchange"},
    {"protocol"},
    {"problems", "tensors"},
    {"access"},
    {"routes.description"},
    {"routes.operation"},
    {"routes.decode", "routes.elbo", "routes.encode", "routes.sample", "routes.v2"},
    {"routes.docs", "routes.explorer", "routes.health", "routes.metrics", "routes.model"},
    {"app", "cycle"},
    {"connection", "server"},
    {"__main__"},
    {"cluster.exporter", "cluster.request_ids", "cluster.scaling"},
    {"cluster.deployment"},
    {"bulk.cells", "bulk.parts"},
    {"bulk.inputs"},
    {"bulk.run"},
    {"bulk.cluster"},
    {"bulk.__main__"},
]
"""A module imports from the layers above it in this list, never from its own or from those below."""

HTTP = {"fastapi", "starlette", "uvicorn", "httpx"}
MUST_NOT_KNOW = {
    "errors": HTTP | {"numpy"},
    "manifest": HTTP | {"onnxruntime", "os", "io"},
    "signature": HTTP | {"onnxruntime", "json"},
    "bundle": HTTP | {"onnxruntime"},
    "noise": HTTP | {"onnxruntime"},
    "calibration": HTTP | {"onnxruntime"},
    "drift": HTTP | {"onnxruntime", "prometheus_client"},
    "arrow": HTTP | {"onnxruntime"},
    "codecs": HTTP | {"onnxruntime"},
    "instances": HTTP | {"onnxruntime", "json", "orjson"},
    "tensors": HTTP | {"onnxruntime"},
    "access": {"numpy", "onnxruntime"},
    "compression": HTTP | {"numpy", "onnxruntime"},
    "devices": HTTP | {"asyncio"},
    "engine": HTTP | {"asyncio"},
    "buffers": HTTP | {"asyncio"},
    "buffered": HTTP | {"asyncio"},
    "fleet": HTTP | {"asyncio", "onnxruntime"},
    "placement": HTTP | {"asyncio", "onnxruntime"},
    "refinement": HTTP | {"onnxruntime"},
    "plan": HTTP | {"onnxruntime", "asyncio"},
    "counterfactuals": HTTP | {"onnxruntime"},
    "batcher": HTTP | {"onnxruntime", "prometheus_client"},
    "watchdog": HTTP | {"onnxruntime", "numpy"},
    "model": HTTP | {"onnxruntime", "prometheus_client", "json", "orjson"},
    "threads": HTTP | {"numpy", "onnxruntime"},
    "catalogue": HTTP | {"onnxruntime", "pathlib"},
    "storage": HTTP | {"onnxruntime", "fsspec"},
    "remote": HTTP | {"onnxruntime", "numpy"},
    "mirror": HTTP | {"onnxruntime", "numpy", "fsspec"},
    "repository": HTTP | {"fsspec"},
    "cycle": {"httptools", "numpy", "onnxruntime"},
    "connection": {"numpy", "onnxruntime"},
    "server": {"fastapi", "starlette", "httptools", "numpy", "onnxruntime"},
    "exposition": HTTP,
    "logs": HTTP | {"numpy", "onnxruntime"},
    "telemetry": HTTP | {"onnxruntime"},
    "bulk.cells": HTTP | {"onnxruntime", "fsspec"},
    "bulk.inputs": HTTP | {"onnxruntime"},
    "bulk.parts": HTTP | {"onnxruntime", "numpy"},
    "bulk.run": HTTP | {"onnxruntime", "fsspec", "pathlib"},
    "bulk.cluster": HTTP | {"onnxruntime", "fsspec", "pathlib"},
    "process": HTTP | {"numpy", "onnxruntime"},
    "cluster.deployment": {"numpy", "onnxruntime", "uvicorn"},
    "cluster.exporter": HTTP | {"numpy", "onnxruntime"},
    "cluster.request_ids": {"numpy", "onnxruntime", "ray"},
    "cluster.scaling": HTTP | {"numpy", "onnxruntime", "service"},
    "tracing": {"numpy", "onnxruntime"},
}
"""What the modules' docstrings say, in imports."""


def modules() -> dict[str, Path]:
    """Every module of the service but the packages' own, which only hold a docstring."""
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
    return {name: path for name, path in paths.items() if not name.endswith("__init__")}


def imports(path: Path) -> set[str]:
    """The full names of what a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def of_service(path: Path) -> set[str]:
    """The modules of the service that a file imports."""
    names = {name.removeprefix("service.") for name in imports(path) if name.startswith("service.")}
    return {module for module in modules() for name in names if f"{name}.".startswith(f"{module}.")}


def test_every_module_has_its_layer() -> None:
    listed = [module for layer in LAYERS for module in layer]
    assert sorted(listed) == sorted(modules())


@pytest.mark.parametrize("module", modules())
def test_imports_point_downward(module: str) -> None:
    below: set[str] = set()
    for layer in LAYERS:
        if module in layer:
            break
        below |= layer
    assert of_service(modules()[module]) <= below


def test_imports_are_found() -> None:
    assert of_service(modules()["app"]) >= {"model", "repository", "routes.elbo", "settings"}
    assert of_service(modules()["model"]) >= {"noise", "batcher", "bundle"}


@pytest.mark.parametrize("module", MUST_NOT_KNOW)
def test_modules_do_not_know_what_they_must_not(module: str) -> None:
    known = {name.partition(".")[0] for name in imports(modules()[module])}
    assert not known & MUST_NOT_KNOW[module]


@pytest.mark.parametrize("module", modules())
def test_nothing_of_training_is_named(module: str) -> None:
    assert not {name.partition(".")[0] for name in imports(modules()[module])} & set(FORBIDDEN)


@pytest.mark.parametrize("module", modules())
def test_ray_is_named_where_it_is_used(module: str) -> None:
    assert ("ray" in {name.partition(".")[0] for name in imports(modules()[module])}) is (module in ON_RAY)


HOOK = """
import importlib.abc, runpy, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(name + " must not be imported")

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
    process = run(f"import {names}\nservice.app.create_app(service.settings.Settings())\nprint('made')")
    assert (process.returncode, process.stdout, process.stderr) == (0, "made\n", "")


def test_the_command_line_runs_where_training_and_ray_cannot_be_imported() -> None:
    process = run("sys.argv = ['service', '--help']\nrunpy.run_module('service', run_name='__main__')")
    assert process.returncode == 0, process.stderr
    for option in ("--models", "--device", "--max-queue", "--timeout", "--default-model"):
        assert option in process.stdout


def test_files_are_scored_where_training_and_ray_cannot_be_imported(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5, 8, 8), np.uint8))
    arguments = ["bulk", str(ROOT / "models" / "digits" / "1"), str(tmp_path / "x.npy"), str(tmp_path / "out")]
    code = "sys.argv = {}\nrunpy.run_module('service.bulk', run_name='__main__')"
    process = run(code.format(arguments))
    assert (process.returncode, process.stderr.strip()) == (0, f"{arguments[-1]}: 5 rows")
    process = run(code.format([*arguments[:-1], str(tmp_path / "many"), "--cluster", "auto"]))
    assert process.returncode == 1
    assert "install lowerbound[cluster] (ray must not be imported)" in process.stderr


def test_ray_is_used_where_training_cannot_be_imported() -> None:
    names = ", ".join(f"service.{name}" for name in sorted(ON_RAY))
    process = run(f"import {names}\nprint('imported')", "ray")
    assert (process.returncode, process.stdout) == (0, "imported\n"), process.stderr
