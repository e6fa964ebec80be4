"""The schema of a table as a YAML file that people read, correct and give back.

Columns that the file does not list are left out. A column of `name` and `type` alone is found out about again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from service.bundle import Column, TabularInput
from service.errors import FileError
from service.small_files import read_small_file, replace_file

_COLUMN = TypeAdapter[Column](Column)
_HEAD = """\
# The columns of a table, in the order of its features. To correct one, change its type and delete its other fields:
# they are then found again. Columns that are not listed are left out.
"""


@dataclass(frozen=True)
class SchemaFile:
    """What a schema file says.

    Attributes:
        names: The columns, in order.
        complete: Those of which everything is said, by name.
        declared: The types of the others.
    """

    names: tuple[str, ...]
    complete: dict[str, Column]
    declared: Mapping[str, Literal["numeric", "categorical"]]


def read_schema(path: Path) -> SchemaFile:
    """Read a schema file.

    Raises:
        FileError: It is no such file; names the column and the field.
    """
    try:
        document = yaml.safe_load(read_small_file(path))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise FileError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    entries = document.get("columns") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise FileError(f"{path}: must have a list of columns")
    names: list[str] = []
    complete: dict[str, Column] = {}
    declared: dict[str, Literal["numeric", "categorical"]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise FileError(f"{path}: column {len(names) + 1} has no name that is text; write it in quotes")
        if entry["name"] in names:
            raise FileError(f"{path}: column {entry['name']!r} is listed twice")
        names.append(entry["name"])
        fields = {key: value for key, value in entry.items() if key != "why"}
        if fields.keys() == {"name", "type"} and fields["type"] in {"numeric", "categorical"}:
            declared[entry["name"]] = fields["type"]
            continue
        try:
            complete[entry["name"]] = _COLUMN.validate_python(fields)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise FileError(f"{path}, column {entry['name']!r}: {field}: {first['msg']}") from error
    return SchemaFile(tuple(names), complete, declared)


def write_schema(path: Path, data: TabularInput, reasons: Mapping[str, str]) -> None:
    """Write a schema file with reasons, and what is left out as a comment."""
    columns: list[dict[str, Any]] = []
    for column in data.columns:
        if column.derived is None:
            fields = {"name": column.name, "type": column.type, "why": reasons.get(column.name, "")}
            columns.append(fields | column.model_dump(mode="json", exclude_defaults=True, exclude={"name", "type"}))
    left_out = "".join(f"#   {name}: {reasons.get(name, '')}\n" for name in data.dropped)
    text = yaml.safe_dump({"columns": columns}, sort_keys=False, allow_unicode=True, width=120)
    replace_file(path, (_HEAD + (f"# Left out:\n{left_out}" if left_out else "") + text).encode())
