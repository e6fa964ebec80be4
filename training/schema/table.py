"""From the cells of a column to its schema: a decision with its reason, or a problem with the option that solves it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from service.bundle import NumericColumn, TimeFormat
from service.readers.columns import decimals, decoded, is_text, to_numpy
from service.readers.times import is_time, order_of, seconds
from training.schema.decisions import Decision, Options, Problem, categorical, left_out, refused, unless_constant
from training.schema.doubts import ENDS, SENTINELS, doubt_far_date, doubt_sentinel
from training.schema.numbers import infer_numbers, with_label_note
from training.schema.texts import infer_texts


def infer_table(names: Sequence[str], read: Callable[[str], pa.ChunkedArray], options: Options) -> list[Decision]:
    """Decide what each column is.

    Args:
        names: Of the columns.
        read: Gives the cells of one.
        options: What the user said.
    """
    decisions = [infer_column(name, read(name), options) for name in names]
    signs = {decision.decimal for decision in decisions}
    # Where a comma divides cells, it is hardly a decimal sign.
    sign: Literal[".", ","] | None = "," if "," in signs else "." if "." in signs or options.delimiter == "," else None
    if options.decimal is None and sign:
        told = replace(options, decimal=sign)
        for i, decision in enumerate(decisions):
            # If other columns have decimal commas, 1,234 is no thousand.
            thousands = isinstance(decision.column, NumericColumn) and decision.column.thousands == ","
            if decision.decimal == "either" or (sign == "," and thousands):
                decisions[i] = infer_column(decision.name, read(decision.name), told)
    return decisions


def infer_column(name: str, cells: pa.ChunkedArray, options: Options) -> Decision:
    """Decide what a column is.

    Args:
        name: Of the column.
        cells: All of them, (N,).
        options: What the user said.
    """
    declared = options.columns.get(name)
    if pa.types.is_dictionary(cells.type):
        cells = cells.cast(cells.type.value_type)
        if declared is None and pa.types.is_integer(cells.type) and len(pc.unique(cells)) <= options.max_categories:
            declared = "categorical"  # In pandas they were. As numbers they would have an order, and a mean.
    cells = decoded(cells)
    kind = cells.type
    if is_text(kind):
        return infer_texts(name, cells, options, declared)
    if pa.types.is_null(kind):
        return left_out(name, "every cell is missing")
    if pa.types.is_decimal(kind):
        cells = decimals(cells)
    if is_time(kind):
        zone = pa.types.is_timestamp(kind) and kind.tz is not None
        time = TimeFormat(order=order_of(kind), zone=zone)
        counted = pc.value_counts(cells.drop_null())
        values, counts = counted.field("values"), counted.field("counts").to_numpy()
        note = doubt_far_date(values, to_numpy(seconds(values)), counts, _as_null)
        decision = Decision(name, NumericColumn(name=name, time=time), str(kind), note=note)
        return unless_constant(decision, len(values), cells, declared, cells.null_count)
    if pa.types.is_boolean(kind):
        distinct = sorted(pc.unique(cells.drop_null()).to_pylist())
        counts = np.array([pc.sum(pc.equal(cells, value)).as_py() for value in distinct])
        decision = with_label_note(categorical(name, distinct, "booleans"), [str(v).lower() for v in distinct], counts)
        return unless_constant(decision, len(distinct), cells, declared, cells.null_count)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        decision = infer_numbers(name, cells, declared, NumericColumn(name=name), str(kind))
        if declared is None and decision.note is None and isinstance(decision.column, NumericColumn):
            # Sentinels are the least or the largest numbers.
            numbers = cells.cast(pa.float64(), safe=False)
            found = np.unique(to_numpy(numbers.filter(pc.is_finite(numbers))))
            ends = dict.fromkeys((*found[:ENDS], *found[-ENDS:]))
            words = [word for word in (f"{end:.17g}" for end in ends) if re.search(SENTINELS, word)]
            decision = replace(decision, note=doubt_sentinel(words, numbers, _as_null))
        return decision
    return refused(name, Problem(f"{kind} is neither numbers, texts nor dates", "drop", (name,)))


def _as_null(*_: str) -> str:
    """How to make a number or a date a missing cell in a file with types."""
    return ", write null there"
