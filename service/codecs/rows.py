"""Rows of a request or a file: the rows to score, and the problem of each other one."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import numpy as np

from service.bundle import Array
from service.errors import InvalidError, writable
from service.scoring import RowsQuery, Unseen

TOO_FAR = "too far from the training data for a finite bound"

LONGEST = 400
"""Characters of what is said of a row."""

PROBLEM = "problem"
"""The column of an answer that says what is wrong with its rows."""


@dataclass(eq=False)
class Marks:
    """The problems of rows, by their number.

    Attributes:
        unreadable: Of rows that cannot be scored.
        unseen: Of rows that can, without these cells.
    """

    unreadable: dict[int, InvalidError] = field(default_factory=dict)
    unseen: dict[int, list[InvalidError]] = field(default_factory=dict)

    def __reduce__(self) -> tuple[type["PackedMarks"], tuple[str]]:
        unreadable = [(row, error.detail, error.location) for row, error in self.unreadable.items()]
        unseen = [(row, [(error.detail, error.location) for error in errors]) for row, errors in self.unseen.items()]
        return PackedMarks, (json.dumps((unreadable, unseen)),)

    def first(self, rows: int) -> "Marks":
        """Those of the first rows alone."""
        return Marks(
            {row: error for row, error in self.unreadable.items() if row < rows},
            {row: errors for row, errors in self.unseen.items() if row < rows},
        )

    def where_unseen(self, unseen: Unseen) -> "Marks":
        """The marks of rows that were read with unseen categories marked, if these are to do something else."""
        match unseen:
            case "mark":
                return self
            case "missing":
                return Marks(self.unreadable)
            case "error":
                # These come before what makes such a row unreadable, see `mark_cells`.
                return Marks(self.unreadable | {row: errors[0] for row, errors in self.unseen.items()})


class PackedMarks(Marks):
    """Marks from another process, which are unpacked where they are looked at: a process may only pass them on."""

    def __init__(self, packed: str) -> None:
        self._packed = packed

    def __getattr__(self, name: str) -> Any:
        if name not in {"unreadable", "unseen"}:
            raise AttributeError(name)
        unreadable, unseen = json.loads(self.__dict__["_packed"])
        self.unreadable = {row: InvalidError(*error) for row, *error in unreadable}
        self.unseen = {row: [InvalidError(*error) for error in errors] for row, errors in unseen}
        return getattr(self, name)

    def __reduce__(self) -> tuple[type["PackedMarks"], tuple[str]]:
        return PackedMarks, (self.__dict__["_packed"],)


class Reading(NamedTuple):
    """How rows are read.

    Attributes:
        mark: Put down what is wrong with a row, and read the others; else refuse all rows.
        unseen: What a category does that is none of its column's: `error` makes it a wrong value, `missing` a missing
            one, and `mark` a missing one that is put down.
        ignore_extra: Whether records may have fields that are no columns of the model. Absent columns are always
            refused, so that a misspelt name does not pass for an extra field.
    """

    mark: bool = False
    unseen: Unseen = "error"
    ignore_extra: bool = True

    @classmethod
    def asked(cls, query: RowsQuery) -> Self:
        """As the parameters of a request say."""
        mark = query.on_error == "mark"
        return cls(mark, query.unseen or ("mark" if mark else "error"), ignore_extra=query.extra == "ignore")


MARKING = Reading(mark=True, unseen="mark")


@dataclass(slots=True, eq=False)
class Rows:
    """Rows in their order.

    Attributes:
        x: Those that can be scored, as the graphs take them, (scored, *shape); if none can, one row to find out the
            columns of the answer with.
        places: Their numbers among all rows, (scored,).
        total: How many rows there are.
        marks: What is wrong with some.
        reading: How they were read.
    """

    x: Array
    places: Array
    total: int
    marks: Marks
    reading: Reading

    @classmethod
    def among(cls, x: Array, marks: Marks, reading: Reading) -> Self:
        """Keep the rows of x, (batch, *shape), that can be scored."""
        if not marks.unreadable:
            return cls(x, np.arange(len(x)), len(x), marks, reading)
        scored = np.ones(len(x), bool)
        scored[list(marks.unreadable)] = False
        return cls(x[scored] if scored.any() else x[:1], np.flatnonzero(scored), len(x), marks, reading)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All rows, of which the parts are some each, in order."""
        places = np.concatenate([part.places for part in parts])
        x = np.concatenate([part.x[: len(part.places)] for part in parts]) if len(places) else parts[0].x
        marks = Marks()
        for part in parts:
            marks.unreadable.update(part.marks.unreadable)
            marks.unseen.update(part.marks.unseen)
        return cls(x, places, sum(part.total for part in parts), marks, parts[0].reading)

    def moved(self, by: int) -> Self:
        """The same rows, where so many others come before them."""
        if not by:
            return self
        unreadable = {row + by: moved(error, by) for row, error in self.marks.unreadable.items()}
        unseen = {row + by: [moved(error, by) for error in errors] for row, errors in self.marks.unseen.items()}
        return replace(self, places=self.places + by, marks=Marks(unreadable, unseen))

    def answer(self, columns: dict[str, Array], too_far: Array) -> dict[str, Any]:
        """The answer to all rows, with NaN or false for rows that cannot be scored, and the column `problem`.

        Args:
            columns: The answers to `x`, (len(x), ...) each.
            too_far: Which rows of `x` are too far away for a finite answer, bool (len(x),).

        Raises:
            InvalidError: There is such a row, and it is not to be marked.
        """
        if np.count_nonzero(too_far) and not self.reading.mark:  # `any` takes ten times as long for one row.
            raise InvalidError(TOO_FAR, f"instances[{int(too_far.argmax())}]")
        if not (self.reading.mark or self.reading.unseen == "mark"):
            return columns
        answer: dict[str, Any] = {name: self._spread(values[: len(self.places)]) for name, values in columns.items()}
        problems: list[str | None] = [None] * self.total
        for row, errors in self.marks.unseen.items():
            problems[row] = writable("; ".join(f"{error}; scored without it" for error in errors), LONGEST)
        for row, error in self.marks.unreadable.items():
            problems[row] = writable(str(error), LONGEST)
        for row in self.places[too_far[: len(self.places)]].tolist():
            problems[row] = f"instances[{row}]: {TOO_FAR}"
        return answer | {PROBLEM: problems}

    def _spread(self, values: Array) -> Array:
        if len(values) == self.total:
            return values
        # Pixels in whole levels become numbers that may be missing.
        dtype = np.dtype(np.float32) if values.dtype.kind == "u" else values.dtype
        spread = np.full((self.total, *values.shape[1:]), np.nan if dtype.kind == "f" else 0, dtype)
        spread[self.places] = values
        return spread


def moved(error: InvalidError, by: int) -> InvalidError:
    """The error of a row, its place counted as if so many other rows came before it."""
    place = re.sub(r"^instances\[(\d+)\]", lambda row: f"instances[{int(row[1]) + by}]", error.location or "")
    return InvalidError(error.detail, place or None)
