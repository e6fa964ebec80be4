"""Tables: CSV and its like, and Parquet, in one file or many, with their schema inferred or told."""

import itertools
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import ConfigDict, Field, PositiveInt

from service.bundle import (
    MAX_TEXT,
    MISSING,
    CategoricalColumn,
    Column,
    Derived,
    ImageInput,
    NumericColumn,
    TabularInput,
)
from service.errors import FileError
from service.readers import TOO_LARGE, parse_column
from service.readers.numbers import NUMBER
from service.readers.tables import open_tables
from service.readers.times import WEEKDAYS, derive, derive_columns
from training.datasets.exclusions import Excluding, kept_rows
from training.datasets.schema_file import SchemaFile, read_schema
from training.datasets.source import Dataset, Excluded, allocate, as_labels, chunks
from training.datasets.table_files import TableFiles
from training.schema import Decision, Options, Problem, doubt_rows, find_stray_rows, fold_notes, infer_table, refused

Cells = npt.NDArray[np.float64]

USUAL = "usual"
"""In the option `missing`: all usual markers."""

_SHOWN = 200
"""Characters of a column's name in an error."""


class TableError(FileError):
    """A table with problems, all of them.

    Attributes:
        problems: One line each.
        remedies: The options that solve them, by name, as `drop`.
    """

    def __init__(self, problems: Sequence[str], remedies: dict[str, Any]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        self.remedies = remedies


class Table(Excluding):
    """Text files (CSV and its like, with a header) or Parquet files, plain, gzipped or compressed by zstd.

    The path names a file, a folder of parts or a pattern. What each column is, is found by its cells and printed with
    the reason; all options but `kind` correct that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)

    kind: Literal["table"] = "table"
    drop: tuple[str, ...] = Field(default=(), description="Columns to leave out.")
    columns: dict[str, Literal["numeric", "categorical"]] = Field(default={}, description="Types of columns.")
    exclude: tuple[str, ...] = Field(
        default=(), description="Rows to keep for evaluation alone, as is_fraud=1; the column is then no feature."
    )
    cyclic: tuple[str, ...] = Field(
        default=(), description="Columns of dates whose hour and day of the week become columns, too."
    )
    max_categories: PositiveInt = Field(
        default=64, description="Limit of categories of a text column that is not declared; the rest become 'other'."
    )
    missing: tuple[str, ...] = Field(
        default=(USUAL,),
        description="Texts of a missing cell, in any case; 'usual' is na, n/a, null, - and other usual ones.",
    )
    delimiter: str | None = Field(
        default=None, min_length=1, max_length=1, description="Delimiter of text files; null: found."
    )
    encoding: str | None = Field(default=None, description="Encoding of text files; null: found.")
    decimal: Literal[".", ","] | None = Field(default=None, description="The decimal sign; null: found.")
    thousands: Literal["", ",", ".", " ", "'"] | None = Field(
        default=None, description="Thousands separator; null: found."
    )
    day_first: bool | None = Field(default=None, description="Whether 3/4/2026 is in April; null: found.")
    schema_file: Path | None = Field(
        default=None, alias="schema", description="A YAML file of columns, as write_schema makes."
    )
    write_schema: Path | None = Field(default=None, exclude=True, description="Write the schema there, and stop.")

    def load(self, path: Path | None) -> Dataset:
        files = self._open(path)
        keep = kept_rows(files, self.exclude, self.exclude_labels, training=True)
        decisions = self._decide(files, keep)
        data = self._schema(files, decisions)
        reasons = {decision.name: decision.reason for decision in decisions}
        notes = (*files.notes(data, told=self.encoding is not None), *fold_notes(decisions))
        dataset = self._read(files, data, keep, training=True)
        return replace(dataset, reasons=reasons, notes=notes + dataset.notes)

    def load_rows(self, path: Path | None, data: ImageInput | TabularInput) -> Dataset:
        """Cells are read by the rules of the model's columns; nothing is inferred."""
        if not isinstance(data, TabularInput):
            raise FileError(f"{path}: a table, where the model takes images")
        files = self._open(path, data)
        return self._read(files, data, kept_rows(files, self.exclude, self.exclude_labels))

    def load_labels(self, path: Path | None, name: str) -> npt.NDArray[np.bool_]:
        """Labels are a column."""
        files = self._open(path)
        files.check([name], "label")
        cells = files.read(name)
        values, problems = parse_column(cells, CategoricalColumn(name=name, categories=(False, True)), ("",))
        if problems:
            values, problems = parse_column(cells, NumericColumn(name=name), ("",))
        if problems:
            raise FileError(f"{files.place(problems[0].row, name)}: {problems[0].detail}, and no label of 0 or 1")
        keep = kept_rows(files, self.exclude, self.exclude_labels)
        return as_labels(Path(files.path), name, values[keep], int(keep.sum()))

    def _open(self, path: Path | None, like: TabularInput | None = None) -> TableFiles:
        if path is None:
            raise FileError("this kind of data needs a path")
        return TableFiles(str(path), open_tables(str(path), self.delimiter, self.encoding, like))

    def _decide(self, files: TableFiles, keep: npt.NDArray[np.bool_]) -> list[Decision]:
        """Decide about every column of the files, in their order."""
        without = dict.fromkeys(self.drop, "dropped, as asked")
        without |= {name: "pandas' index" for name in files.index if name not in self.columns}
        without |= {condition.partition("=")[0]: "says which rows are excluded" for condition in self.exclude}
        told = read_schema(self.schema_file) if self.schema_file else SchemaFile((), {}, {})
        if self.schema_file:
            without |= {name: "not in the schema" for name in files.names if name not in told.names}
            files.check(told.names, "schema")
        files.check(self.drop, "drop")
        files.check(self.columns, "columns", without)
        files.check(self.cyclic, "cyclic", without)
        if not files.num_rows:
            raise FileError(f"{files.path}: no rows")

        mask = None if keep.all() else pa.array(keep)
        rows = np.flatnonzero(keep)

        def read(name: str) -> pa.ChunkedArray:
            return files.read(name) if mask is None else files.read(name).filter(mask)

        text = files.tables[0].text
        options = Options(
            columns={**told.declared, **self.columns},
            max_categories=self.max_categories,
            missing=self._markers,
            decimal=self.decimal,
            thousands=self.thousands,
            day_first=self.day_first,
            delimiter=text.delimiter if text else None,
        )
        names = list(dict.fromkeys(files.names))
        if files.names.count("") > 1 and files.has_empty_nameless(self._markers):
            without[""] = "columns without a name and without a value"
        wrong = _wrong_names(files, without)
        known = {*without, *told.complete, *wrong}
        inferred = [name for name in names if name not in known]
        found = {decision.name: decision for decision in infer_table(inferred, read, options)}
        found |= {name: Decision(name, column, "as the schema says") for name, column in told.complete.items()}
        found |= {name: refused(name, Problem(detail, "drop", (name,))) for name, detail in wrong.items()}
        found |= {name: Decision(name, None, reason) for name, reason in without.items()}
        if "" in found and found[""].column:
            found[""] = Decision("", None, f"column {files.names.index('') + 1} has no name: give it one to keep it")
        self._refuse(files, [found[name] for name in names], rows)
        return [found[name] for name in names]

    @property
    def _markers(self) -> tuple[str, ...]:
        """The texts that stand for a missing cell."""
        told = (MISSING if marker == USUAL else (marker,) for marker in self.missing)
        return tuple(dict.fromkeys(itertools.chain.from_iterable(told)))

    def _refuse(self, files: TableFiles, decisions: list[Decision], rows: npt.NDArray[np.int64]) -> None:
        """Raise a TableError that names every problem, and the options that solve them all."""
        remedies: dict[str, Any] = {}
        texts = []
        stray = find_stray_rows(decisions, len(rows) - 1)
        for decision in decisions:
            if (problem := decision.problem) is None:
                continue
            where = (
                f"{files.path}, column {decision.name[:_SHOWN]!r}"
                if problem.row is None
                else files.place(int(rows[problem.row]), decision.name)
            )
            if decision.name in stray:
                texts.append(f"{where}: {stray[decision.name]}")
                continue
            before = remedies.get(problem.option, getattr(self, problem.option))
            value = problem.value
            if isinstance(before, dict):
                value = before | value
            elif isinstance(before, tuple):
                value = tuple(dict.fromkeys([*before, *value]))
            remedies[problem.option] = value
            texts.append(f"{where}: {problem.detail}; {_ADVICE[problem.option]}")
        if texts:
            # No option removes a line of the file.
            raise TableError(texts, {} if stray else remedies)

    def _schema(self, files: TableFiles, decisions: list[Decision]) -> TabularInput:
        columns: list[Column] = []
        for decision in decisions:
            if decision.column is not None:
                columns.append(decision.column)
                if decision.name in self.cyclic:
                    columns += self._derived(files, decision)
        if not columns:
            why = "; ".join(f"{d.name!r} {d.note}" if d.note else f"{d.name!r}: {d.reason}" for d in decisions[:10])
            raise FileError(f"{files.path}: no column is left ({why})")
        dropped = tuple(decision.name for decision in decisions if decision.column is None)
        return TabularInput(columns=tuple(columns), dropped=dropped, missing=self._markers, text=files.tables[0].text)

    def _derived(self, files: TableFiles, decision: Decision) -> list[Column]:
        """The columns that a column of dates gives beside itself, without constant ones."""
        column = decision.column
        if not isinstance(column, NumericColumn) or column.time is None or column.time.order == "elapsed":
            raise FileError(f"cyclic: {decision.name!r} is no column of dates ({decision.reason})")
        moments, _ = parse_column(files.read(column.name), column, self._markers)
        parts: tuple[Column, ...] = (
            NumericColumn(name=f"{column.name}.hour", period=24, derived=Derived(source=column.name, part="hour")),
            CategoricalColumn(
                name=f"{column.name}.weekday", categories=WEEKDAYS, derived=Derived(source=column.name, part="weekday")
            ),
        )
        if column.time.order == "clock":
            parts = parts[:1]
        return [
            part
            for part in parts
            if part.derived and len(np.unique(derive(moments[~np.isnan(moments)], part.derived))) > 1
        ]

    def _read(
        self, files: TableFiles, data: TabularInput, keep: npt.NDArray[np.bool_], *, training: bool = False
    ) -> Dataset:
        """Read the cells of all rows by the rules of the columns.

        In training, infinite cells count as missing from then on, so that the model scores the rows it was trained on.

        Raises:
            TableError: Cells follow no rule; names the first one of each column.
        """
        by_column = allocate((len(data.columns), files.num_rows), np.float64)
        columns, problems, infinite = list(data.columns), [], []
        for i, column in enumerate(data.columns):
            if column.derived is not None:
                continue
            by_column[i], found = parse_column(files.read(column.name), column, data.missing)
            if training and (large := [problem for problem in found if problem.detail == TOO_LARGE]):
                many = f"infinite cells ({len(large):,})"
                infinite.append(f"{column.name!r}: {many} count as missing, in rows to score too")
                columns[i] = column.model_copy(update={"infinite_is_missing": True})
                found = [problem for problem in found if problem.detail != TOO_LARGE]
            if wrong := [p for p in found if not (p.unseen and not keep[p.row])]:
                problems.append(
                    f"{files.place(wrong[0].row, column.name)}: {wrong[0].detail} ({len(wrong):,} such cells)"
                )
        if problems:
            raise TableError(problems, {})
        derive_columns(by_column.T, data)
        doubts = doubt_rows(columns, by_column, files.place) if training else ()
        kept, excluded = np.flatnonzero(keep), np.flatnonzero(~keep)
        return Dataset(
            data.model_copy(update={"columns": tuple(columns)}),
            _transposed(by_column, None if keep.all() else kept),
            notes=(*doubts, *infinite),
            numbers=None if keep.all() else kept,
            excluded=Excluded(_transposed(by_column, excluded), excluded) if len(excluded) else None,
        )


_ADVICE = {
    "drop": "drop the column",
    "columns": "declare what the column is",
    "missing": "correct the cells, or declare what stands for a missing one, or that the column is categorical",
    "day_first": "say which, by day_first",
}


def _wrong_names(files: TableFiles, without: Collection[str]) -> dict[str, str]:
    """Say what is wrong with names of columns.

    Raises:
        FileError: A row stands in the place of a header: several columns have the same number for a name.
    """
    repeated = {name: count for name, count in Counter(files.names).items() if count > 1}
    if number := next((name for name in sorted(repeated.keys() - without) if re.fullmatch(NUMBER, name)), None):
        raise FileError(
            f"{files.path}: the header has {number!r} more than once, as a row would; a file without a header needs "
            "one: write the names of the columns in a line before it"
        )
    return {
        **{
            name: f"its name has {len(name):,} characters; give it one of at most {MAX_TEXT:,}"
            for name in files.names
            if len(name) > MAX_TEXT
        },
        **{name: f"{count} columns are named so; give them other names" for name, count in repeated.items()},
        **{name: f"{path} has no such column" for name, path in files.lacking.items()},
    }


def _transposed(by_column: Cells, rows: npt.NDArray[np.int64] | None) -> Cells:
    """Cells (columns, N) as rows (N, columns), or as those of these numbers."""
    num_rows = by_column.shape[1] if rows is None else len(rows)
    found = allocate((num_rows, len(by_column)), np.float64)
    for part in chunks(found):
        found[part] = by_column[:, part if rows is None else rows[part]].T
    return found
