"""For people: the cells that make a row strange."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from service.bundle import Array, TabularInput
from service.codecs.rendering import render_records
from service.codecs.rows import Rows

CELLS = 3
"""Cells that are named in columns of their own."""


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
                texts[place] = f"{name}: {format_value(sent[row][name])} (expected {format_value(expected[row][name])})"
        columns[f"strangest_{rank}"] = pa.array(texts, pa.string())
    return columns


def format_value(value: Any) -> str:
    """A value in few digits."""
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def strangeness(score: Any, p_value: Any) -> Any:
    """Columns of scores and p-values as one to rank rows by; null in a row with neither.

    A row too far away for a finite score has a p-value alone, and is the strangest.
    """
    return pc.if_else(pc.is_valid(p_value), pc.fill_null(score, math.inf), score)
