"""Categories of one size, computed together: operations for each of a thousand columns take minutes to export."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class BySize(NamedTuple):
    """Columns of categories in the order of their sizes.

    Attributes:
        columns: Their numbers, (D,).
        values: The numbers of all their categories, counted column by column as the columns stand, (sum of sizes,).
        blocks: For each size, how many columns have it, and the size.
    """

    columns: npt.NDArray[np.int64]
    values: npt.NDArray[np.int64]
    blocks: list[tuple[int, int]]


def by_size(sizes: Sequence[int]) -> BySize:
    """Order columns by their sizes, (D,); those of one size stay as they stand."""
    columns = np.argsort(np.array(sizes, np.int64), kind="stable")
    values = np.argsort(np.repeat(sizes, sizes), kind="stable")
    return BySize(columns, values, [(sizes.count(size), size) for size in sorted(set(sizes))])
