"""Text with a header and rows of a table, as CSV: read as files are, written with a column for each number."""

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from service.bundle import TabularInput
from service.codecs.arrow import write_batch
from service.errors import FileError, InvalidError, MalformedError, suggest
from service.readers.files import TextBytes
from service.readers.tables import TextFile
from service.readers.text import find_format


@dataclass(frozen=True, eq=False)
class TextRows:
    """The cells of a text.

    Attributes:
        columns: By name, those that the model takes, (rows,) texts each.
        wrong: What is wrong with rows, from 0, that have too few cells or too many; all their cells are null.
        extra: A column that the model does not know, if there is one.
    """

    columns: Mapping[str, pa.ChunkedArray]
    wrong: Mapping[int, str]
    extra: str | None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def read_text(sent: TextBytes, data: TabularInput, most: int) -> TextRows:
    """Read a text by the rules for files, and hardly more rows than `most`; the manifest says how files are written.

    Raises:
        MalformedError: It is no text, or has no header, or a quotation mark is not closed.
        InvalidError: The header is without a column of the model, or has it twice.
    """
    batches: list[pa.RecordBatch] = []
    rows = 0
    try:
        file = TextFile(sent, find_format(sent, like=data))
        _check_header(file.names, data)
        for batch in file.batches(data.given):
            batches.append(batch)
            rows += batch.num_rows
            if rows > most:
                break
    except FileError as error:
        raise MalformedError(re.sub(r"^body[:,] ", "", str(error)), "body") from error
    table = pa.Table.from_batches(batches, pa.schema([(name, pa.string()) for name in data.given]))
    extra = min({*file.names} - {*data.features, *data.dropped, ""}, default=None)
    return TextRows({name: table.column(name) for name in data.given}, file.wrong, extra)


def _check_header(names: list[str], data: TabularInput) -> None:
    for name in data.given:
        if (times := names.count(name)) == 1:
            continue
        near = suggest(name, names)
        detail = "stands twice in the header" if times else f"is absent in the header, {', '.join(names[:20])}{near}"
        raise InvalidError(detail, f"instances[0].{name}")


def write_text(columns: Mapping[str, Any]) -> bytes:
    """A header and a line for each row, in UTF-8; NaN and null are empty cells."""
    batch = write_batch(columns)
    sink = io.BytesIO()
    pyarrow.csv.write_csv(flat_table(pa.Table.from_batches([batch])), sink)
    return sink.getvalue()


def flat_table(table: pa.Table) -> pa.Table:
    """Columns of plain values: those of a record are named `feature_surprise.age`, those of a list `mean.0`."""
    return pa.table(
        {
            name: values
            for column in table.column_names
            for name, values in _leaves(column, table[column].combine_chunks())
        }
    )


def _leaves(name: str, values: Any) -> Iterator[tuple[str, Any]]:
    if pa.types.is_struct(values.type):
        for i, field in enumerate(values.type):
            yield from _leaves(f"{name}.{field.name}", values.field(i))
    elif pa.types.is_fixed_size_list(values.type):
        for i in range(values.type.list_size):
            yield from _leaves(f"{name}.{i}", pc.list_element(values, i))
    elif pa.types.is_dictionary(values.type):
        yield name, values.cast(values.type.value_type)
    else:
        yield name, values
