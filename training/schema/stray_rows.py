"""Lines of a table that are no rows: the header again, a second line of it, totals."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from service.bundle import Column, NumericColumn
from training.schema.decisions import Decision
from training.schema.doubts import TOTALS

_TOTALS = re.compile(rf"{TOTALS.pattern}|(average|mean)\b", re.IGNORECASE)
_ENOUGH = 10
"""Fewer rows do not show that the last one is a sum."""


def find_stray_rows(decisions: Sequence[Decision], last: int) -> dict[str, str]:
    """Say of problems that one line causes what that line is, by column.

    As missing cells its texts would be lost, and the rest of the line would be a row.

    Args:
        decisions: About the columns.
        last: The last row of those that are not excluded, from 0.
    """
    wrong = {d.name: d.problem for d in decisions if d.problem and d.problem.option == "missing"}
    alone = Counter(problem.row for problem in wrong.values() if problem.cells == 1)
    found = {}
    for name, problem in wrong.items():
        words: Sequence[str] = problem.value
        if [word.casefold() for word in words] == [name.casefold()]:
            found[name] = f"the header stands there again, as {words[0]!r}; remove the line"
        elif problem.row == 0 and problem.cells == 1 and alone[0] > 1:
            found[name] = f"{words[0]!r} is not a number: a second line of the header, or units? remove the line"
        elif problem.row == last and problem.cells == 1 and _TOTALS.match(words[0]):
            found[name] = f"{words[0]!r} is not a number: a line of totals? remove it"
    return found


def doubt_rows(
    columns: Sequence[Column], by_column: npt.NDArray[np.float64], place: Callable[[int], str]
) -> Iterator[str]:
    """Point out rows without values, and that the last row is the sum of all others.

    Args:
        columns: Of the table.
        by_column: Their cells, (columns, N).
        place: Names a row, from 0.
    """
    blank = np.full(by_column.shape[1], len(columns) > 1)
    for cells in by_column:
        blank &= np.isnan(cells)
    if count := np.count_nonzero(blank):
        first = place(int(blank.argmax()))
        yield f"rows without a value in any column ({count:,}), the first is {first}: remove them"
    if by_column.shape[1] < _ENOUGH:
        return
    for column, cells in zip(columns, by_column, strict=True):
        if isinstance(column, NumericColumn) and column.time is None and column.derived is None:
            rest, total = cells[:-1], float(cells[-1])
            if total > np.nanmax(rest, initial=-np.inf) and np.isclose(np.nansum(rest), total, rtol=1e-6, atol=0):
                yield f"the last row has the sum of all others in {column.name!r}: remove it, if it is a line of totals"
                return
