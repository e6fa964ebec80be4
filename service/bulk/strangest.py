"""For people: the strangest rows of a run."""

import math
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table

from service.bulk.writer import PartWriter
from service.codecs.strangest import CELLS, say

TOP = 10
"""Rows that are shown at the end of a run."""

RANK = "_rank"


def strangest_rows(parts: PartWriter, keep: Sequence[str]) -> Table | None:
    """The rows of the highest scores, for a terminal; None where no row has a score.

    Args:
        parts: All rows, with bounds.
        keep: Columns of the inputs that are shown beside the rows' places, scores and strangest cells.
    """
    cells = (f"strangest_{rank}" for rank in range(1, CELLS + 1))
    wanted = ["file", "row", *keep, "score", "p_value", *cells]
    top: pa.Table | None = None
    for part in parts.read(wanted):
        # A row too far away for a finite score has a p-value alone, and is the strangest.
        rank = pc.if_else(part["p_value"].is_valid(), pc.fill_null(part["score"], math.inf), part["score"])
        ranked = part.append_column(RANK, rank).filter(rank.is_valid())
        joined = ranked if top is None else pa.concat_tables([top, ranked], promote_options="permissive")
        top = joined.sort_by([(RANK, "descending")]).slice(0, TOP)
    if top is None or not top.num_rows:
        return None
    shown = [name for name in wanted if name in top.column_names]
    table = Table(title="The strangest rows", title_justify="left")
    for name in shown:
        table.add_column(name, justify="right" if pa.types.is_floating(top.schema.field(name).type) else "left")
    for row in top.select(shown).to_pylist():
        table.add_row(*("" if value is None else say(value) for value in row.values()))
    return table
