"""The first look at the data, before torch is imported: rows and schema, or all problems with their remedy."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from service.bundle import NumericColumn, TabularInput
from service.cli import CommandLine, parse, problems
from service.errors import FileError, printable
from service.readers.times import render_time
from service.storage import Location
from training.datasets import AnySource, Dataset, SplitRecipe, download, split
from training.datasets.schema_file import write_schema
from training.datasets.source import chunks
from training.datasets.table import Table as TableSource
from training.datasets.table import TableError
from training.recipe_files import RecipeError, read_values

FEW = 1000
"""Rows of which the first look finds out whether they are too few for the parts of a training."""

LARGE = 2**26
"""Bytes of a file that may take longer to read than PyTorch to import."""

SHOWN = 5
"""Categories of a column that are shown."""

LONGEST = 40
"""Characters of a category that are shown."""

LINES = 200
"""Columns that are shown, and those left out: a terminal keeps no thousands of lines."""


class FirstLook(CommandLine):
    """The fields of a recipe that say where its data is, how to read it, and how to divide its rows."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", nested_model_default_partial_update=True, cli_ignore_unknown_args=True
    )

    data: Location | None = None
    dataset: AnySource
    split: SplitRecipe = SplitRecipe()


def takes_long(recipe: str, arguments: Sequence[str]) -> bool:
    """Whether reading the data may take longer than importing PyTorch: it is a folder, a large file, or at a URL.

    Raises:
        RecipeError: There is no such recipe, or a field is wrong.
    """
    data = _asked(recipe, arguments).data
    if not isinstance(data, Path):
        return data is not None
    return data.is_dir() or (data.is_file() and data.stat().st_size > LARGE)


def _asked(recipe: str, arguments: Sequence[str]) -> FirstLook:
    file, values = read_values(recipe)
    try:
        return parse(FirstLook, list(arguments), **values)
    except ValidationError as error:
        raise RecipeError(f"{file}: {problems(error)}") from error


def look(recipe: str, arguments: Sequence[str], console: Console) -> Dataset | None:
    """Read the data of a recipe, and show what it is; None where its schema was written, as asked, and nothing more.

    Raises:
        RecipeError: There is no such recipe, or a field is wrong.
        FileError: The data cannot be used. The command that would train is shown, where one is known.
    """
    asked = _asked(recipe, arguments)
    try:
        with download(asked.data) as path:
            dataset = asked.dataset.load(path)
    except TableError as error:
        if error.remedies:
            for problem in error.problems:
                console.print(printable(problem), style="red", markup=False)
            command = remedied(recipe, arguments, error.remedies)
            console.print(f"this would train:\n{printable(command)}", markup=False)
            many = len(error.problems)
            raise FileError(f"{many} problem{'' if many == 1 else 's'} with the data") from error
        raise
    show(dataset, console)
    if (
        isinstance(asked.dataset, TableSource)
        and asked.dataset.write_schema
        and isinstance(dataset.input, TabularInput)
    ):
        path = asked.dataset.write_schema
        write_schema(path, dataset.input, dataset.reasons)
        console.print(f"{path}: written; correct it, and train with --dataset.schema {path}", markup=False)
        return None
    if len(dataset.rows) < FEW:
        split(dataset, asked.split)
    return dataset


def show(dataset: Dataset, console: Console) -> None:
    """Print what the data is, column by column, and what the user should look at."""
    if isinstance(dataset.input, TabularInput):
        if text := dataset.input.text:
            console.print(f"text in {text.encoding}, divided by {text.delimiter!r}", markup=False)
        console.print(describe(dataset, dataset.input))
        if more := sum(max(0, len(names) - LINES) for names in (dataset.input.columns, dataset.input.dropped)):
            console.print(f"and {more:,} more columns: --dataset.write_schema FILE.yaml writes all of them down")
    else:
        console.print(f"images of shape {dataset.input.shape}")
    if dataset.excluded is not None:
        console.print(f"{len(dataset.excluded.rows):,} rows are excluded, and kept for evaluation")
    for note in dataset.notes:
        console.print(f"note: {printable(note)}", style="yellow", markup=False)


def describe(dataset: Dataset, data: TabularInput) -> Table:
    """Show a table's schema: every column's type, range or categories, share of missing cells, and the reason."""
    view = Table("column", "type", "values", Column("missing", justify="right"), "why")
    parts = [dataset.rows[part] for part in chunks(dataset.rows)]
    # NaN, a missing cell, is the least and the most only of nothing else.
    least, most = (edge.reduce([edge.reduce(part) for part in parts]) for edge in (np.fmin, np.fmax))
    missing = np.sum([np.isnan(part).sum(0) for part in parts], 0) / len(dataset.rows)
    for column, low, high, share in zip(data.columns[:LINES], least, most, missing, strict=False):
        kind: str = column.type
        if not isinstance(column, NumericColumn):
            shown = ", ".join(
                shorten(str(category), LONGEST, placeholder="…") for category in column.categories[:SHOWN]
            )
            many = len(column.categories)
            values = shown + (f", … ({many} in all)" if many > SHOWN else "")
        elif column.time:
            kind, values = "time", f"{render_time(low, column.time)} … {render_time(high, column.time)}"
        else:
            values = f"{low:g} … {high:g}"
        why = f"from {column.derived.source}" if column.derived else dataset.reasons.get(column.name, "")
        view.add_row(
            Text(printable(column.name)),
            kind,
            Text(printable(values)),
            f"{share:.1%}" if share else "",
            Text(printable(why)),
        )
    for name in data.dropped[:LINES]:
        view.add_row(
            Text(printable(name)), "left out", "", "", Text(printable(dataset.reasons.get(name, ""))), style="dim"
        )
    return view


def remedied(recipe: str, arguments: Sequence[str], remedies: Mapping[str, Any]) -> str:
    """Write the command again, with options that solve the problems of its data."""
    kept: list[str] = []
    replaced = {f"--dataset.{name}" for name in remedies}
    skip = False
    for argument in arguments:
        if not skip and argument.partition("=")[0] not in replaced:
            kept.append(argument)
        skip = not skip and argument in replaced
    values = {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | dict | bool) else str(value)
        for name, value in remedies.items()
    }
    options = [part for name, value in values.items() for part in (f"--dataset.{name}", value)]
    return shlex.join(["lowerbound", "train", recipe, *kept, *options])
