"""Traced graphs without weights, kept between runs: the exporter takes most of the time of a small training.

A template depends on the module's structure alone: its classes, the shapes of its weights, the contract, the code of
this package and the versions of the exporter. None of the data is in it. `XDG_CACHE_HOME` says where the cache lies.
"""

import hashlib
import logging
import os
import tempfile
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

import onnx
from torch import nn

from service.bundle import Graph

KEPT = 256
"""Templates in the cache; older ones are removed."""

_log = logging.getLogger(__name__)


def structure_key(module: nn.Module, graph: Graph) -> str:
    """SHA-256, in hex, of everything that the traced graph depends on beside its weights' values."""
    parts = [_code(), graph.model_dump_json(), type(module).__qualname__]
    for name, part in module.named_modules():
        plain = {key: value for key, value in vars(part).items() if not key.startswith("_")}
        parts.append(f"{name} {type(part).__qualname__} {plain!r}")
    parts += [f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in module.state_dict().items()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@cache
def _code() -> str:
    """Digest of this package's sources and of the versions of what translates them."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    digest.update(" ".join(version(package) for package in ("torch", "onnx", "onnxscript")).encode())
    return digest.hexdigest()


def read_template(key: str) -> onnx.ModelProto | None:
    """The cached template of this key, or None where there is none that can be read."""
    try:
        # No bytes are a message, too, though not a graph; a loss of power may leave a file without any.
        return onnx.load_from_string((_folder() / f"{key}.onnx").read_bytes() or b"\0")
    except FileNotFoundError:
        return None
    except Exception as error:  # A damaged file; protobuf's own kinds share no public base.
        _log.warning("%s: cannot be read, and is traced again: %s", _folder() / f"{key}.onnx", error)
        return None


def write_template(key: str, template: onnx.ModelProto) -> None:
    """Keep a template. A cache that cannot be written costs the next run its time, and nothing else."""
    try:
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            (file := Path(temporary, "template")).write_bytes(template.SerializeToString(deterministic=True))
            file.replace(folder / f"{key}.onnx")
        with suppress(FileNotFoundError):  # Another process removes the oldest, too.
            for path in sorted(folder.glob("*.onnx"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
                path.unlink()
    except OSError as error:
        _log.warning("the traced graphs cannot be kept: %s", error)


def _folder() -> Path:
    """Raises FileNotFoundError for a user without a home, as of containers that run as any user."""
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise FileNotFoundError("the user has no home directory; set XDG_CACHE_HOME") from error
    return Path(cache, "lowerbound", "graphs")
