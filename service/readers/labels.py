"""Files of labels: which rows somebody has confirmed as normal, and which as anomalies."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from service.errors import FileError
from service.readers.columns import is_text, trimmed
from service.readers.files import reading
from service.readers.tables import TextFile, open_table

ANOMALY = ("anomaly", "1", "true")
NORMAL = ("normal", "0", "false")

UNLABELLED = ""
"""The label of a row that still needs a look."""

LABEL = "label"
ROW = "row"
"""The key of rows that are named by their number, from 1."""
FILE = "file"
"""The key of pictures, which are named by their file."""


def read_labels(path: Path, key: str, rows: Iterable[str] = ()) -> dict[str, bool]:
    """Whether a row is an anomaly, by the key that says which row is meant; rows with an empty label are left out.

    Args:
        path: The file of labels.
        key: Its column that names rows.
        rows: The names of all rows: a label may name a picture's file by a part of its path.

    Raises:
        FileError: The file cannot be read, has no such columns or another label, or labels a row in two ways; or a
            label may mean two pictures.
    """
    table = read_file(path)
    labels: dict[str, bool] = {}
    for row, label in zip(texts(table, key, path), texts(table, LABEL, path), strict=True):
        if label == UNLABELLED:
            continue
        if label.lower() not in ANOMALY + NORMAL:
            raise FileError(f"{path}: the label {label!r} is none of {', '.join(NORMAL + ANOMALY)}")
        anomalous = label.lower() in ANOMALY
        if labels.setdefault(row, anomalous) != anomalous:
            raise FileError(f"{path}: {key} {row!r} is labelled both normal and anomaly")
    return _find_files(labels, rows, path) if key == FILE else labels


def read_anomalies(path: Path, rows: Iterable[str] = ()) -> tuple[str, list[str]]:
    """The key of a file of labels, `ROW`, `FILE` or its only other column, and the anomalies among its rows.

    Raises:
        FileError: See `read_labels`; or it is not clear which column is the key.
    """
    names = [name for name in read_file(path).column_names if name != LABEL]
    key = next((name for name in (ROW, FILE) if name in names), names[0] if len(names) == 1 else None)
    if key is None:
        raise FileError(f"{path}: must have the columns {LABEL!r} and one other, which says which row is meant")
    return key, [row for row, anomalous in read_labels(path, key, rows).items() if anomalous]


def read_file(path: Path) -> pa.Table:
    """The rows of a text file, all texts because 0017 is another key than 17, or of Parquet, a file or a folder.

    Raises:
        FileError: It cannot be read.
    """
    with reading(str(path)):
        if not path.is_dir() and isinstance(file := open_table(str(path)), TextFile):
            return file.whole().rename_columns(file.names)
        table = pyarrow.parquet.read_table(path)
        table.validate(full=True)  # Nothing else looks at texts' encoding.
        return table


def texts(table: pa.Table, name: str, path: Path) -> list[str]:
    """A column as texts, so that a key may be a number in one file and a text in the other; see `find_column`."""
    return names_of(find_column(table, name, path))


def find_column(table: pa.Table, name: str, path: Path) -> pa.ChunkedArray:
    """A column of a file.

    Raises:
        FileError: There is none of this name.
    """
    if name not in table.column_names:
        hint = "; --key says which of them names the rows" if name == ROW else ""
        raise FileError(f"{path}: no column {name!r}; there are {', '.join(table.column_names)}{hint}")
    return table[name]


def names_of(cells: pa.ChunkedArray) -> list[str]:
    """The cells of a key as texts, an empty one where there is none."""
    plain = trimmed(cells) if is_text(cells.type) else cells
    return ["" if value is None else str(value) for value in plain.to_pylist()]


def _find_files(labels: dict[str, bool], files: Iterable[str], path: Path) -> dict[str, bool]:
    """Labels by the whole names of the files that they mean; a label that means none keeps its own name.

    A browser tells the last part of a path alone: 7.png is new/7.png.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_name[file.rpartition("/")[2]].append(file)
    named: dict[str, bool] = {}
    for given, anomalous in labels.items():
        alike = by_name[given.rpartition("/")[2]]
        ends = [file for file in alike if f"/{file}".endswith(f"/{given}") or f"/{given}".endswith(f"/{file}")]
        first, *others = [given] if given in alike else ends or [given]
        if others:
            raise FileError(f"{path}: {FILE} {given!r} may be {first} or {others[0]}; write more of its path")
        if named.setdefault(first, anomalous) != anomalous:
            raise FileError(f"{path}: {FILE} {first!r} is labelled both normal and anomaly")
    return named
