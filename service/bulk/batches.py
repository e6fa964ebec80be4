"""Batches of rows, and what every input of them has in common."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from service.bundle import Array, ImageInput, TabularInput
from service.codecs.instances import parse_marked
from service.codecs.rows import MARKING, Marks
from service.errors import FileError, InvalidError

FIELD = "instances"
_PLACE = re.compile(rf"{FIELD}\[(\d+)\]")


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows in their order.

    Attributes:
        x: As the graphs take them, (batch, *shape).
        names: Of the pictures that they are, if they are pictures.
        path: Of the file that they are in, if they are not.
        start: How many rows of the file come before.
        marks: What is wrong with some; these rows of `x` hold anything.
        kept: Columns of the file to be written beside the answers.
    """

    x: Array
    names: list[str] | None = None
    path: str = ""
    start: int = 0
    marks: Marks = field(default_factory=Marks)
    kept: pa.RecordBatch | None = None

    @property
    def places(self) -> dict[str, pa.Array]:
        """The place of each row: `file`, and `row` from 1 if they are not pictures; then the columns kept."""
        rows = len(self.x)
        if self.names is not None:
            return {"file": pa.array(self.names)}
        numbers = pa.array(np.arange(self.start + 1, self.start + rows + 1))
        places = {"file": pa.repeat(self.path, rows), "row": numbers}
        return (
            places if self.kept is None else places | dict(zip(self.kept.schema.names, self.kept.columns, strict=True))
        )

    def first(self, rows: int) -> "Batch":
        """At most so many of them."""
        if rows >= len(self.x):
            return self
        return replace(
            self,
            x=self.x[:rows],
            names=self.names and self.names[:rows],
            marks=self.marks.first(rows),
            kept=self.kept and self.kept.slice(0, rows),
        )

    def in_file(self, problem: str) -> str:
        """The problem of a row of this batch, with its file and its number there from 1."""
        row = int(_PLACE.findall(problem)[0])
        if self.names is not None:
            return f"{self.names[row]}: {_PLACE.sub('', problem).removeprefix(': ')}"
        return f"{self.path}: {_PLACE.sub(f'row {self.start + row + 1}', problem)}"


class Input(Protocol):
    """Rows in a file, or in several that belong together.

    Attributes:
        path: Of the file.
        seeks: Whether a row is found without reading all those before it.
    """

    path: str
    seeks: bool

    def count(self) -> int:
        """How many rows there are. A text file is read once for that."""

    def read(self, start: int, rows: int) -> Iterator[Batch]:
        """The rows from `start` on, at most so many at a time.

        Raises:
            FileError: The file cannot be read, or a row is no instance of the model's data; names the place.
        """


def parse_batch(values: object, data: ImageInput | TabularInput, path: str, start: int) -> Batch:
    """The rows of a file, of which so many come before, with what is wrong with some.

    Raises:
        FileError: Something is wrong with all of them.
    """
    marks = Marks()
    try:
        x = parse_marked(values, data, MARKING, marks)
    except InvalidError as error:
        place = re.match(rf"{FIELD}\[(\d+)\](.*)", error.location or "", re.DOTALL)
        where = f"row {start + int(place[1]) + 1}{place[2]}" if place else f"from row {start + 1} on"
        raise FileError(f"{path}: {where}: {error.detail}") from error
    return Batch(x, path=path, start=start, marks=marks)
