"""Nothing that is read from outside can run: no pickle on its way. The installed packages are the locked ones."""

import ast
import io
import os
import pickle
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import run_server

ROOT = Path(__file__).parents[2]
BETWEEN_OWN_PROCESSES = ROOT / "service" / "codecs" / "child.py"
SOURCES = [
    path
    for folder in ("service", "training")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != BETWEEN_OWN_PROCESSES
]

PICKLERS = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNPICKLE_UNLESS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "np.save": ("allow_pickle", False),
    "np.savez": ("allow_pickle", False),
    "np.savez_compressed": ("allow_pickle", False),
    "np.lib.format.read_array": ("allow_pickle", False),
    "np.lib.format.write_array": ("allow_pickle", False),
    "np.lib.npyio.NpzFile": ("allow_pickle", False),
}
"""Calls that read or write pickles unless this argument, given by name, says that they must not."""


def pickles(tree: ast.AST) -> Iterator[str]:
    """Calls in this code that read or write pickles, or could."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names if alias.name.partition(".")[0] in PICKLERS)
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in PICKLERS:
                yield module
            case ast.ImportFrom(module="torch" | "numpy" as module, names=names):
                yield from (f"{module}.{a.name}" for a in names if a.name in {"load", "save", "savez"})
            case ast.Attribute(attr="read_pickle" | "to_pickle" | "register_for_checkpointing" as name):
                yield name
            case ast.Call(func=function, keywords=keywords) if (name := ast.unparse(function)) in UNPICKLE_UNLESS:
                wanted = UNPICKLE_UNLESS[name]
                given = {k.arg: k.value.value for k in keywords if isinstance(k.value, ast.Constant)}
                if given.get(wanted[0]) is not wanted[1]:
                    yield name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_pickles(path: Path) -> None:
    assert not list(pickles(ast.parse(path.read_text())))


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "def f():\n    from joblib import load",
        "from torch import load",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=allowed)",
        "np.savez(f, x=x)",
        "frame.to_pickle(f)",
    ],
)
def test_pickles_are_found(code: str) -> None:
    assert list(pickles(ast.parse(code)))


HOOK = """
import os, sys

def note(event, arguments):
    if event == "pickle.find_class":
        os.write(marks, f"{arguments}\\n".encode())

marks = os.open(os.environ["MARKS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
sys.addaudithook(note)
"""
"""The first code that Python runs: it notes whenever anything that is unpickled names a class or a function."""


@pytest.fixture
def audited(tmp_path: Path) -> dict[str, str]:
    """The environment in which Python notes what it unpickles, in the file `marks`."""
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", str(ROOT))])
    return {"PYTHONPATH": path, "MARKS": str(tmp_path / "marks")}


def test_nothing_is_unpickled_in_serving(audited: dict[str, str], tmp_path: Path) -> None:
    x = np.zeros((2, 8, 8), np.uint8)
    npy = io.BytesIO()
    np.save(npy, x)
    bomb = io.BytesIO()
    np.save(bomb, np.array([Path("x")], object), allow_pickle=True)
    binary = {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}
    with run_server(log=tmp_path / "log", **audited) as client:
        for path in ("/elbo?explain=true&refine=1&score=regret", "/encode?num_draws=2", "/models/digits/elbo"):
            assert client.post(path, json={"instances": x.tolist()}).is_success
            assert client.post(path, content=npy.getvalue(), headers=binary).is_success
            assert client.post(path, content=bomb.getvalue(), headers=binary).status_code == 400
        for path in ("/sample?n=4", "/model", "/health/ready", "/openapi.json", "/v2/models/digits"):
            assert client.get(path).is_success
    assert (tmp_path / "marks").read_text() == ""


def test_the_hook_notes(audited: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "pickled").write_bytes(pickle.dumps(Path("x")))
    code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    command = [sys.executable, "-c", code, str(tmp_path / "pickled")]
    subprocess.run(command, env=os.environ | audited, check=True)
    assert "pathlib" in (tmp_path / "marks").read_text()


# The locks

LOCKS = {path.stem: path.read_text() for path in (ROOT / ".ci").glob("*.lock")}
UNLISTED = {"colorama", "httpx2-jsfetch", "setuptools"}
"""Packages locked for other systems, and packages that pip does not list."""


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """For each package of a lock its version and its files' digests."""
    entries = re.findall(r"^([\w.-]+)==(\S+)([^#]*?)(?=^\S|\Z|^ +#)", LOCKS[name], re.MULTILINE)
    return {name: (version, re.findall(r"--hash=sha256:([0-9a-f]{64})", rest)) for name, version, rest in entries}


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_file_has_a_digest(name: str) -> None:
    packages = locked(name)
    assert len(packages) == len(re.findall(r"^\w", LOCKS[name], re.MULTILINE))
    assert all(digests for _, digests in packages.values())
    assert "://" not in LOCKS[name]


def test_the_locks_are_what_is_asked_for() -> None:
    """After a change of a dependency: `make lock`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for name, requirements in (
        ("serve", project["dependencies"]),
        ("remote", extras["remote"]),
        ("train", extras["train"]),
    ):
        asked = {re.split(r"[<>=\[;]", requirement)[0] for requirement in requirements}
        assert asked - {"torch"} <= locked(name).keys() | locked("serve").keys() | locked("remote").keys()
    assert {"nvidia-cublas", "nvidia-cudnn-cu13"} <= locked("cuda").keys()


def test_no_package_is_in_two_locks() -> None:
    """They are installed together."""
    names = [name for lock in LOCKS for name in locked(lock)]
    assert len(names) == len(set(names))


def test_the_locks_are_what_was_tested() -> None:
    tested = dict(re.findall(r"^([\w.-]+)==(.+)$", (ROOT / ".ci" / "constraints.txt").read_text(), re.MULTILINE))
    tested = {name.lower().replace("_", "-"): version for name, version in tested.items()}
    for name, (version, _) in (locked("serve") | locked("remote") | locked("train")).items():
        assert name in UNLISTED or tested[name] == version
