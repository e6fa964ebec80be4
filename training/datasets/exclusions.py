"""Rows that no model is trained on, because a column or a file of labels says that they are anomalies."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from service.errors import FileError
from service.readers.columns import to_bool, trimmed
from service.readers.labels import ROW, read_anomalies
from training.datasets.source import Dataset, Excluded, Source, allocate
from training.datasets.table_files import TableFiles


class Excluding(Source):
    """A source whose rows a file of labels can exclude."""

    exclude_labels: Path | None = Field(
        default=None,
        description="A file of labels, as `lowerbound threshold` takes: its anomalies are kept for evaluation alone.",
    )

    def for_other_rows(self) -> Self:
        """The labels name rows of the training data."""
        return self.model_copy(update={"exclude_labels": None})

    def without_anomalies(self, dataset: Dataset, place: Path) -> Dataset:
        """The dataset with its labelled anomalies for evaluation alone.

        Raises:
            FileError: The labels cannot be read, or name none of the rows, or all.
        """
        if (labels := self.exclude_labels) is None:
            return dataset
        by_number = dataset.names is None
        names = dataset.names or tuple(map(str, range(1, len(dataset.rows) + 1)))
        key, anomalies = read_anomalies(labels, names)
        anomalous = np.isin(names, anomalies)
        if by_number != (key == ROW) or not anomalous.any():
            raise FileError(f"{labels}: none of its {len(anomalies):,} anomalies is a row of {place}, by {key!r}")
        if anomalous.all():
            raise FileError(f"{labels}: leaves no row of {place}")
        numbers, excluded = np.flatnonzero(~anomalous), np.flatnonzero(anomalous)
        kept = allocate((len(numbers), *dataset.rows.shape[1:]), dataset.rows.dtype)
        np.take(dataset.rows, numbers, 0, kept, "clip")  # The default makes a copy in memory first.
        return replace(
            dataset,
            rows=kept,
            numbers=numbers,
            names=None if by_number else tuple(names[number] for number in numbers),
            excluded=Excluded(dataset.rows[excluded], excluded),
        )


def kept_rows(
    files: TableFiles, conditions: Sequence[str], labels: Path | None, *, training: bool = False
) -> npt.NDArray[np.bool_]:
    """Which rows are not excluded, (N,).

    The conditions, as `is_fraud=1`, and a file of labels say which are. Rows for evaluation need not have the column of
    a condition, nor a row that it holds for.

    Raises:
        FileError: A condition is of another form; or one, in training, or the labels hold for no row; or they leave
            none; or the labels cannot be read.
    """
    keep = np.ones(files.num_rows, bool)
    for condition in conditions:
        keep &= ~_rows_where(files, condition, training=training)
    if labels is not None:
        keep &= ~_labelled(files, labels)
    if not keep.any() and files.num_rows:
        raise FileError(f"exclude: {', '.join([*conditions, *([str(labels)] if labels else [])])} leaves no row")
    return keep


def _rows_where(files: TableFiles, condition: str, *, training: bool) -> npt.NDArray[np.bool_]:
    name, sign, value = condition.partition("=")
    if not sign:
        raise FileError(f"exclude: {condition!r} is not of the form column=value")
    if not training and name not in files.names:
        return np.zeros(files.num_rows, bool)
    files.check([name], "exclude")
    texts = trimmed(files.read(name).cast(pa.string()))
    encoded = texts.combine_chunks().dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    same = [i for i, text in enumerate(distinct) if _same(text, value)]
    if training and not same:
        shown = ", ".join(map(repr, distinct[:8])) + (", ..." if len(distinct) > 8 else "")
        raise FileError(f"{files.path}: exclude: no row has {condition}; {name!r} is one of {shown}")
    return np.isin(encoded.indices.fill_null(-1).to_numpy(), same)


def _labelled(files: TableFiles, labels: Path) -> npt.NDArray[np.bool_]:
    """The rows that a file of labels calls anomalies."""
    key, anomalies = read_anomalies(labels)
    if key == ROW:
        if len(files.tables) > 1:
            raise FileError(f"{labels}: numbers of rows, where {files.path} has several files; label by another column")
        names = pa.array(map(str, range(1, files.num_rows + 1)))
    else:
        files.check([key], "exclude_labels")
        names = trimmed(files.read(key).cast(pa.string())).combine_chunks()
    found = to_bool(pc.is_in(names, value_set=pa.array(anomalies, names.type)))
    if not found.any():
        raise FileError(f"{labels}: none of its {len(anomalies):,} anomalies is a row of {files.path}, by {key!r}")
    return found


def _same(text: str | None, value: str) -> bool:
    """Whether a cell's text is a value, in any case, or the same number."""
    if text is None or text.lower() == value.lower():
        return text is not None
    try:
        return float(text) == float(value)
    except ValueError:
        return False
