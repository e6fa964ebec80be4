"""Finished cells of the tables, one JSON line each: an interrupted run goes on where it stopped."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

Key = Mapping[str, Any]
Cell = dict[str, Any]


class Cells:
    """A file of cells by key; the latest cell of a key counts.

    Args:
        path: The file; made with its first cell. A line that was cut off by a crash is passed over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cells: dict[str, Cell] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            self._cells[_name(record["key"])] = record["cell"]

    def get(self, key: Key) -> Cell | None:
        """The cell of this key, once it is finished."""
        return self._cells.get(_name(key))

    def add(self, key: Key, cell: Cell) -> None:
        """Keep a finished cell, on the disk before this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cut_off = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a") as file:
            file.write("\n" * cut_off + json.dumps({"key": dict(key), "cell": cell}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._cells[_name(key)] = cell

    def folder(self, key: Key) -> Path:
        """Where an unfinished cell may keep what it has so far."""
        return self.path.parent / hashlib.sha256(_name(key).encode()).hexdigest()[:16]


def hardware() -> str:
    """The hardware: processor, cores, and the GPU in use."""
    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
    cores = f"{len(os.sched_getaffinity(0))} cores of {cpu}"
    return f"{torch.cuda.get_device_name()}, {cores}" if torch.cuda.is_available() else cores


def _name(key: Key) -> str:
    return json.dumps(dict(key), sort_keys=True)
