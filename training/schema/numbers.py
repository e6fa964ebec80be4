"""Decisions about columns of numbers."""

import re
import shlex
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from service.bundle import NumericColumn
from training.schema.decisions import Decision, Declared, Problem, categorical, left_out, refused, unless_constant
from training.schema.doubts import NAMES_OF_IDS, doubt_number

EXACT = 2**53
"""Beyond it float64 skips whole numbers."""

ENOUGH_ROWS = 30
"""Fewer rows do not show that a column identifies them."""

_NAMES_OF_LABELS = re.compile(
    r"(^|[_.\s-])(label|target|class|fraud|anomal\w*|outlier\w*|attack|defect\w*|default|churn)\W*$", re.IGNORECASE
)
_SWITCHES = ({"0", "1"}, {"false", "true"}, {"no", "yes"}, {"n", "y"}, {"f", "t"})
_RARE = 0.05


def infer_numbers(
    name: str, cells: pa.Array, declared: Declared | None, column: NumericColumn, reason: str
) -> Decision:
    """Decide about numbers, (N,): numeric, two categories, the numbers of rows, or constant."""
    whole = pa.types.is_integer(cells.type)
    if not whole:
        cells = cells.cast(pa.float64())
        cells = pc.if_else(pc.is_finite(cells), pc.add(cells, 0.0), None)
    elif not pa.types.is_uint64(cells.type):
        cells = cells.cast(pa.int64())  # What is computed below does not fit into 8 bits.
    present = cells.drop_null()
    distinct = pc.unique(present)
    if not len(distinct):
        return left_out(name, "every cell is missing")
    if declared == "categorical" or (declared is None and len(distinct) == 2):
        values = sorted(distinct.to_pylist())
        decision = categorical(name, values, "two numbers" if declared is None else "declared")
        if declared or values != [0, 1]:
            return decision
        ones = int(pc.sum(pc.equal(present, pa.scalar(1, present.type))).as_py())
        return with_label_note(decision, ["0", "1"], np.array([len(present) - ones, ones]))
    # pandas writes whole numbers as floats where some are missing.
    amounts = column.affixes or column.thousands or column.decimal == ","
    numbers = cells if whole else None if amounts else _as_integers(cells)
    if declared is None and numbers is not None and len(distinct) == len(cells) and (why := _identifies(name, numbers)):
        return left_out(name, why)
    if whole and (bad := inexact(cells.fill_null(0).to_numpy())).any():
        row = int(np.argmax(bad))
        detail = f"float64 cannot hold {cells[row]} exactly"
        return refused(name, Problem(detail, "columns", {name: "categorical"}, row))
    note = None if declared or amounts else doubt_number(name, cells if numbers is None else numbers)
    decision = Decision(name, column, reason, note=note)
    return unless_constant(decision, len(distinct), cells, declared, len(cells) - len(present))


def _as_integers(cells: pa.Array) -> pa.Array | None:
    try:
        return cells.cast(pa.int64())
    except pa.ArrowInvalid:  # Some are no whole numbers.
        return None


def with_label_note(decision: Decision, values: list[str], counts: npt.NDArray[np.int64]) -> Decision:
    """Point out a column of two values that looks like a label.

    Args:
        decision: That it is categorical.
        values: As texts, (D,).
        counts: How many cells have each, (D,).
    """
    if len(values) != 2:
        return decision
    switch = {value.lower() for value in values} in _SWITCHES
    rare = int(np.argmin(counts))
    if switch:  # The text for true is the greater one, too.
        rare = max(range(2), key=lambda i: values[i].lower())
    share = float(counts[rare] / counts.sum())
    named = _NAMES_OF_LABELS.search(decision.name) is not None
    if not (switch and (named or share <= _RARE)) and not (named and share <= 4 * _RARE):
        return decision
    option = f"--dataset.exclude {shlex.quote(f'{decision.name}={values[rare]}')}"
    return replace(decision, note=f"looks like a label: {values[rare]} in {share:.1%} of the rows: {option}")


def _identifies(name: str, cells: pa.Array) -> str | None:
    """Why integers, all different, are the numbers of rows, if they are."""
    ends = pc.min_max(cells).as_py()
    consecutive = ends["max"] - ends["min"] + 1 == len(cells)
    if consecutive and (len(cells) >= ENOUGH_ROWS or (not name and ends["min"] == 0)):
        return f"numbers the rows: {ends['min']} to {ends['max']}"
    named = NAMES_OF_IDS.search(name) is not None
    if (named or inexact(cells.to_numpy()).any()) and len(cells) >= ENOUGH_ROWS:
        return "identifies rows: every number is another"
    return None


def inexact(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which integers float64 cannot hold: those whose odd part needs more than 53 bits. Any shape."""
    # The smallest int64 is its own absolute value, and wraps to the right 2**63.
    size = np.abs(numbers).astype(np.uint64)
    lowest_bit = size & (~size + np.uint64(1))
    return np.asarray(size // np.maximum(lowest_bit, np.uint64(1)) >= EXACT)
