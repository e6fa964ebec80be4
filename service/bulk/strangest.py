"""For people: the cells that make a row strange, and the strangest rows of a run."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table

from service.bulk.writer import PartWriter
from service.bundle import Array, TabularInput
from service.codecs.rendering import render_records
from service.codecs.rows import Rows

CELLS = 3
"""Cells that are named in columns of their own."""

TOP = 10
"""Rows that are shown at the end of a run."""

RANK = "_rank"


def strangest_cells(rows: Rows, answer: Mapping[str, Array], data: TabularInput) -> dict[str, pa.Array]:
    """`strangest_1` and so on: the cells of the largest surprise above 0, as `rent: 2,900 (expected 1,341)`.

    Args:
        rows: Rows of a table.
        answer: `feature_surprise` and `feature_expected`, (scored, columns), of those rows that can be scored.
        data: The table's columns.
    """
    sent = render_records(rows.x, data)
    expected = render_records(answer["feature_expected"], data)
    surprise = np.nan_to_num(answer["feature_surprise"], nan=-np.inf)  # Of a missing cell.
    columns = {}
    for rank, order in enumerate(np.argsort(-surprise, axis=1, kind="stable")[:, :CELLS].T, 1):
        texts: list[str | None] = [None] * rows.total
        for place, row, cell in zip(rows.places.tolist(), range(len(sent)), order.tolist(), strict=False):
            name = data.features[cell]
            if surprise[row, cell] > 0:
                texts[place] = f"{name}: {_say(sent[row][name])} (expected {_say(expected[row][name])})"
        columns[f"strangest_{rank}"] = pa.array(texts, pa.string())
    return columns


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
    table = Table(title=f"The {top.num_rows} strangest rows", title_justify="left")
    for name in shown:
        table.add_column(name, justify="right" if pa.types.is_floating(top.schema.field(name).type) else "left")
    for row in top.select(shown).to_pylist():
        table.add_row(*("" if value is None else _say(value) for value in row.values()))
    return table


def _say(value: Any) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else str(value)
