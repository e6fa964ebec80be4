"""Generic anomalies made of normal rows: their own values, in other places.

Every value stays one that normal rows have; what they say together changes. Noise, blur and contrast are left out on
purpose. They change how a thing was measured, and the best score at noticing them is not the best at noticing foreign
things. Mirror images are left out, too: for much that is measured they are no anomaly.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from service.bundle import Array

Corruption = Callable[[Array, np.random.Generator], Array]


def turn(x: Array, rng: np.random.Generator) -> Array:
    """Each picture by 20 to 160 degrees, either way; corners are filled with the nearest pixel."""
    angles = rng.uniform(20, 160, len(x)) * rng.choice([-1, 1], len(x))
    turned = [
        ndimage.rotate(row, angle, reshape=False, order=0, mode="nearest") for row, angle in zip(x, angles, strict=True)
    ]
    return np.stack(turned)


def shift(x: Array, rng: np.random.Generator) -> Array:
    """Each picture by a seventh of it both ways, around the edges."""
    steps = np.maximum(1, np.array(x.shape[1:3]) // 7) * rng.choice([-1, 1], (len(x), 2))
    return np.stack([np.roll(row, step, (0, 1)) for row, step in zip(x, steps, strict=True)])


def splice(x: Array, rng: np.random.Generator) -> Array:
    """Replace the upper or the left half of each picture by another's."""
    height, width = x.shape[1:3]
    other = x[_partners(len(x), rng)]
    upper = rng.random(len(x)) < 0.5
    spliced = x.copy()
    spliced[upper, : height // 2] = other[upper, : height // 2]
    spliced[~upper, :, : width // 2] = other[~upper, :, : width // 2]
    return spliced


def patch(x: Array, rng: np.random.Generator) -> Array:
    """Replace a window of each picture, a third of it both ways, by a window of another, from another place."""
    height, width = x.shape[1:3]
    rows, columns = max(1, height // 3), max(1, width // 3)
    other = _partners(len(x), rng)
    corners = rng.integers(0, [height - rows + 1, width - columns + 1] * 2, (len(x), 4))
    patched = x.copy()
    for i, (top, left, from_top, from_left) in enumerate(corners):
        patched[i, top : top + rows, left : left + columns] = x[
            other[i], from_top : from_top + rows, from_left : from_left + columns
        ]
    return patched


def warp(x: Array, rng: np.random.Generator) -> Array:
    """Every pixel comes from nearby: by a smooth displacement of about a fourteenth of the picture."""
    height, width = x.shape[1:3]
    grid = np.mgrid[:height, :width]
    size = min(height, width)
    warped = np.empty_like(x)
    for i, row in enumerate(x):
        field = ndimage.gaussian_filter(rng.standard_normal(grid.shape), (0, size / 9, size / 9))
        source = np.rint(grid + field * (size / 14 / field.std())).astype(int)
        warped[i] = row[source[0].clip(0, height - 1), source[1].clip(0, width - 1)]
    return warped


def exchange_half(x: Array, rng: np.random.Generator) -> Array:
    """Replace half of the cells of each row by another row's."""
    return _exchange(x, rng, max(1, x.shape[1] // 2))


def exchange_few(x: Array, rng: np.random.Generator) -> Array:
    """Replace an eighth of the cells of each row, at least one, by another row's."""
    return _exchange(x, rng, max(1, x.shape[1] // 8))


def exchange_all(x: Array, rng: np.random.Generator) -> Array:
    """Each cell is some other row's: nothing is left of what columns have to do with one another."""
    return np.stack([column[_partners(len(x), rng)] for column in x.T], 1)


CORRUPTIONS: dict[str, dict[str, Corruption]] = {
    "image": {"turn": turn, "shift": shift, "splice": splice, "patch": patch, "warp": warp},
    "tabular": {"exchange_few": exchange_few, "exchange_half": exchange_half, "exchange_all": exchange_all},
}
"""By kind of data; each turns at least two rows (N, *shape) into as many anomalies."""


def _exchange(x: Array, rng: np.random.Generator, cells: int) -> Array:
    chosen = rng.random(x.shape).argsort(1) < cells
    return np.where(chosen, x[_partners(len(x), rng)], x)


def _partners(rows: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """For each row the number of another one; each is chosen once."""
    order = rng.permutation(rows)
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    return other
