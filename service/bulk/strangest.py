"""For people: the strangest rows of a run."""

from collections.abc import Sequence

import pyarrow as pa
from rich.table import Table
from rich.text import Text

from service.bulk.writer import PartWriter
from service.codecs.strangest import CELLS, format_value, strangeness
from service.errors import printable

TOP = 10
"""Rows that are shown at the end of a run."""

RANK = "_rank"


def strangest_rows(parts: PartWriter, keep: Sequence[str]) -> Table | None:
    """The rows of the highest scores, with the columns to keep, for a terminal; None where no row has a score."""
    cells = [f"strangest_{rank}" for rank in range(1, CELLS + 1)]
    wanted = ["file", "row", *keep, "score", "p_value", *cells]
    top: pa.Table | None = None
    for part in parts.read(wanted):
        rank = strangeness(part["score"], part["p_value"])
        ranked = part.append_column(RANK, rank).filter(rank.is_valid())
        joined = ranked if top is None else pa.concat_tables([top, ranked], promote_options="permissive")
        top = joined.sort_by([(RANK, "descending")]).slice(0, TOP)
    if top is None or not top.num_rows:
        return None
    rows = top.select([name for name in wanted if name in top.column_names]).to_pylist()
    hidden = {"file"} if "row" in rows[0] and len({row["file"] for row in rows}) == 1 else set()
    shown = [name for name in rows[0] if name not in hidden and name not in cells]
    table = Table(title="The strangest rows", title_justify="left")
    for name in shown:  # On a narrow terminal the cells are wrapped, not the keys of the rows.
        is_number = pa.types.is_floating(top.schema.field(name).type)
        table.add_column(plain(name), justify="right" if is_number else "left", no_wrap=name != "file", overflow="fold")
    if explained := cells[0] in rows[0]:
        table.add_column("strangest cells", overflow="fold")
    for row in rows:
        values = ["" if row[name] is None else plain(format_value(row[name])) for name in shown]
        said = (plain(cell) for name in cells if (cell := row.get(name)))
        table.add_row(*values, *([Text("\n").join(said)] if explained else []))
    return table


def plain(text: str) -> Text:
    """A text from a file for a terminal: brackets in it are no style, and nothing in it steers the terminal."""
    return Text(printable(text))
