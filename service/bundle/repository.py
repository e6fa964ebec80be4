"""A repository: a folder of bundles in `<name>/<version>/`."""

import os
import re
from pathlib import Path

from service.bundle.files import MANIFEST

VERSION = re.compile(r"[1-9][0-9]{0,8}")
"""The name of a version's folder."""

MISNAMED = "is no version: give the folder a whole number from 1 to 999999999, or a name that begins with a dot"
"""The reason to refuse a bundle in a folder whose name is no `VERSION`."""


def versions(repository: Path, model: str | None = None) -> dict[str, list[int]]:
    """The bundles under a repository, good and bad: for each name, or for one, its versions, oldest first.

    A version's folder without a manifest is still being written, and passed over; one that cannot be looked into is
    not. Version 0 stands for a model's folder that cannot be looked into itself.
    """
    found = {name: _versions_of(repository / name) for name in _models(repository, model)}
    return {name: numbers for name, numbers in found.items() if numbers}


def misnamed(repository: Path, model: str | None = None) -> dict[str, list[str]]:
    """The folders with a manifest, in those of the models, that no version has for a name: `01`, `1e3` or `latest`."""
    found = {
        name: [
            folder
            for folder in _list(repository / name) or []
            if not (folder.startswith(".") or VERSION.fullmatch(folder)) and _is_bundle(repository / name / folder)
        ]
        for name in _models(repository, model)
    }
    return {name: folders for name, folders in found.items() if folders}


def _models(repository: Path, model: str | None) -> list[str]:
    names = (_list(repository) or []) if model is None else [model]
    return [name for name in names if not name.startswith(".")]


def _versions_of(folder: Path) -> list[int]:
    names = _list(folder)
    if names is None:
        return [0]
    return sorted(int(name) for name in names if VERSION.fullmatch(name) and _is_bundle(folder / name))


def _is_bundle(folder: Path) -> bool:
    """Whether the folder has a manifest; true also if the system does not let that be found out."""
    try:
        os.lstat(folder / MANIFEST)
    except FileNotFoundError:
        return folder.is_symlink() and not folder.exists()
    except OSError:
        return True
    return True


def _list(folder: Path) -> list[str] | None:
    """The names in a folder, sorted; none where it is a file or gone, None where it cannot be looked into."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except NotADirectoryError:
        return []
    except OSError:
        return None if os.path.lexists(folder) else []
