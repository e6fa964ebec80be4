"""The generated parts of the reference pages: `make docs` writes them, and a test holds them to the code.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from service.api.app import OPERATIONS
from service.cli import COMMANDS, main
from service.settings import Settings
from training.datasets import DATASETS
from training.recipes import Recipe

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
PART = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in line) + " |\n" for line in lines
    )


def default(field: FieldInfo) -> str:
    """The default as a user writes it; empty where there is none, or where the description names it."""
    value = field.default
    if field.is_required():
        return "required"
    if value in (None, (), {}) or "Default: " in (field.description or "") or field.default_factory:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def choices(annotation: Any) -> list[str]:
    """The values of a literal type, also within a union."""
    if get_origin(annotation) in {Union, UnionType, Annotated}:
        return [choice for part in get_args(annotation) for choice in choices(part)]
    return (
        [str(value) for value in get_args(annotation)]
        if all(isinstance(value, str) for value in get_args(annotation))
        else []
    )


def meaning(field: FieldInfo) -> str:
    values = ", ".join(f"`{choice}`" if choice.strip() else f'`"{choice}"`' for choice in choices(field.annotation))
    return f"{field.description} One of {values}." if values else field.description or ""


def settings() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        off = f" (`--no-{flag[2:]}`: false)" if field.default is True else ""
        rows.append((f"`{flag}`", f"`LOWERBOUND_{name.upper()}`", meaning(field), default(field) + off))
    return table(("flag", "environment", "meaning", "default"), rows)


def section(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        if inner := section(field.annotation):
            yield from fields(inner, f"{prefix}{name}.")
        elif name == "dataset":
            yield "`dataset.kind`", f"How to read the data: {', '.join(DATASETS)}.", default(field)
        elif name != "kind":
            yield f"`{prefix}{field.alias or name}`", meaning(field), default(field)


def recipe() -> str:
    return table(("field", "meaning", "default"), fields(Recipe))


def datasets() -> str:
    rows = [(f"`{kind}`", *row) for kind, source in DATASETS.items() for row in fields(source, "dataset.")]
    return table(("`dataset.kind`", "field", "meaning", "default"), rows)


def parameters() -> str:
    """The query parameters of each operation."""
    found: dict[str, tuple[list[str], FieldInfo]] = {}
    for operation in OPERATIONS:
        query: type[BaseModel] = get_type_hints(operation.handler)["query"]
        for name, field in query.model_fields.items():
            paths, _ = found.setdefault(f"{name} {field.description}", ([], field))
            paths.append(f"`{operation.path}`")
    rows = []
    for key, (paths, field) in found.items():
        rows.append((f"`{key.split(' ')[0]}`", ", ".join(paths), meaning(field), default(field)))
    return table(("parameter", "of", "meaning", "default"), rows)


def answers() -> str:
    """The fields of each answer."""
    rows = [
        (f"`{operation.path}`", f"`{name}`", field.description or "")
        for operation in OPERATIONS
        for name, field in operation.answer.model_fields.items()
    ]
    return table(("of", "field", "meaning"), rows)


def commands() -> str:
    """The help of every command, as a terminal of 100 columns shows it."""
    os.environ["COLUMNS"] = "100"
    blocks = []
    for arguments in (["--help"], *([name, "--help"] for name in COMMANDS)):
        with contextlib.redirect_stdout(io.StringIO()) as page, contextlib.suppress(SystemExit):
            main(arguments)
        command = " ".join(["lowerbound", *arguments])
        blocks.append(f"```console\n$ {command}\n{page.getvalue().strip()}\n```\n")
    return "\n".join(blocks)


PARTS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "recipe": recipe,
    "datasets": datasets,
    "parameters": parameters,
    "answers": answers,
    "commands": commands,
}


def generate(text: str) -> str:
    """The page with its parts made anew."""
    return PART.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n{found[3]}", text)


def pages() -> Iterator[Path]:
    for path in sorted(FOLDER.glob("*.md")):
        if PART.search(path.read_text()):
            yield path


if __name__ == "__main__":
    for path in pages():
        path.write_text(generate(path.read_text()))
