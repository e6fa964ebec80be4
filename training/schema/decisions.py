"""Decisions about a column of a file, and the user's options for the file."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from service.bundle import CategoricalColumn, Category, Column
from service.readers.numbers import FORMATS, Format

_TOLD = 3
"""Notes that are alike and told in full."""

_NAMED = 20
"""Columns that a note names."""

Declared = Literal["numeric", "categorical"]


@dataclass(frozen=True)
class Options:
    """What the user said about a table.

    Attributes:
        columns: Declared types.
        max_categories: The most categories of a text column that is not declared.
        missing: Texts, in any case, that stand for a missing cell.
        decimal: The decimal sign, if it is said.
        thousands: The thousands separator, if it is said.
        day_first: Whether 3/4/2026 is in April, if it is said.
        delimiter: Of the first file, where it is text.
    """

    columns: dict[str, Declared]
    max_categories: int
    missing: tuple[str, ...]
    decimal: Literal[".", ","] | None
    thousands: Literal["", ",", ".", " ", "'"] | None
    day_first: bool | None
    delimiter: str | None

    @property
    def formats(self) -> tuple[Format, ...]:
        """The ways to write numbers that are allowed, the likeliest first."""
        # Where a semicolon divides cells, a comma is rather a decimal sign than one of thousands.
        order = sorted(FORMATS, key=lambda form: form == (".", ",")) if self.delimiter == ";" else FORMATS
        return tuple(
            (decimal, thousands)
            for decimal, thousands in order
            if self.decimal in {None, decimal} and self.thousands in {None, thousands}
        ) or ((self.decimal or ".", self.thousands or ""),)


@dataclass(frozen=True)
class Problem:
    """What keeps a column from being used.

    Attributes:
        detail: What is wrong.
        option: The option that solves it, as `drop`.
        value: Its value for this column; those of several are put together.
        row: The first wrong cell's, from 0, if it is about one.
        cells: How many cells have its text.
    """

    detail: str
    option: Literal["drop", "columns", "missing", "day_first"]
    value: Any
    row: int | None = None
    cells: int = 0


@dataclass(frozen=True)
class Decision:
    """What becomes of a column of a file.

    Attributes:
        name: Of the column.
        column: Its schema; None where it is left out, or there is a problem.
        reason: Why.
        problem: Why it cannot be used.
        note: What the user should look at all the same, in words that follow the name.
        decimal: The decimal sign that its texts show; see `find_decimal`.
    """

    name: str
    column: Column | None
    reason: str
    problem: Problem | None = None
    note: str | None = None
    decimal: Literal[".", ",", "either"] | None = None


def fold_notes(decisions: Iterable[Decision]) -> Iterator[str]:
    """All notes, but of many alike only the first ones, and the names of the other columns.

    A wide table may have a thousand of one kind. Notes are alike where they differ in names and numbers.
    """
    alike: dict[str, list[str]] = {}
    for decision in decisions:
        if decision.note:
            kind = re.sub(r"\S*[\d'\"=]\S*", "", decision.note.replace(decision.name, "''"))
            told = alike.setdefault(kind, [])
            told.append(decision.name)
            if len(told) <= _TOLD:
                yield f"{decision.name!r} {decision.note}"
    for names in alike.values():
        if others := names[_TOLD:]:
            shown = ", ".join(map(repr, others[:_NAMED])) + (", ..." if len(others) > _NAMED else "")
            columns = f"{len(others):,} more columns" if len(others) > 1 else "one more column"
            yield f"what is said of {names[0]!r} is true of {columns}: {shown}"


def left_out(name: str, reason: str) -> Decision:
    """Decide that the model is without a column."""
    return Decision(name, None, reason)


def refused(name: str, problem: Problem) -> Decision:
    """Decide that a column cannot be used as it is."""
    return Decision(name, None, problem.detail, problem)


def categorical(name: str, values: list[Category], reason: str) -> Decision:
    """Decide that a column has these categories, if there are any."""
    column = CategoricalColumn(name=name, categories=tuple(values)) if values else None
    return Decision(name, column, reason)


def unless_constant(
    decision: Decision, distinct: int, cells: pa.Array, declared: Declared | None, missing: int
) -> Decision:
    """Leave out a column without values or, where it is not declared, with one alone beside `missing` cells."""
    if distinct == 0:
        return left_out(decision.name, "every cell is missing")
    if distinct == 1 and declared is None:
        value = cells.drop_null()[0].as_py()
        return left_out(decision.name, f"constant: {value!r} in every row{' that has a value' if missing else ''}")
    return decision
