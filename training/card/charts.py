"""Charts of numbers, drawn by matplotlib without its global state.

Colours are those of Okabe and Ito, which colour-blind people tell apart; lines differ in their dashes, too.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from PIL import Image

from service.bundle import Array
from training.card.pictures import png

BLACK, GREY, ORANGE, BLUE, GREEN, VERMILION, PURPLE = (
    *("#000000", "#8c8c8c", "#e69f00", "#0072b2", "#009e73", "#d55e00", "#cc79a7"),
)
SERIES = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (PURPLE, ":"), (ORANGE, "-"), (BLACK, "--"))
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#595959",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 200,
    "font.size": 9,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
}
SIZE = (4.6, 3.0)
"""Inches: the letters stay readable at the width of a phone."""


def _chart(draw: Callable[[Axes], None]) -> bytes:
    """A PNG picture of what `draw` puts on the axes."""
    with style.context(["default", STYLE]):
        figure = Figure(figsize=SIZE, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        draw(figure.subplots())
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    # So few colours are in a chart that 64 show no loss, and the file is a fraction of the size.
    return png(picture.quantize(64, dither=Image.Dither.NONE))


def curves(series: Mapping[str, Sequence[float]], unit: str, best: int) -> bytes:
    """Figures by epoch, counted from 1, with the best epoch marked.

    The first twentieth of the epochs does not set the scale: what they come from is of no interest for where they lead.
    """

    def draw(axes: Axes) -> None:
        for (name, values), (colour, dashes) in zip(series.items(), SERIES, strict=False):
            axes.plot(np.arange(1, len(values) + 1), values, dashes, color=colour, label=name)
        settled = np.concatenate([np.asarray(values)[len(values) // 20 :] for values in series.values()])
        margin = 0.06 * float(np.ptp(settled)) or 1.0
        axes.set_ylim(settled.min() - margin, settled.max() + margin)
        axes.axvline(best, color=GREY, linewidth=1, linestyle=(0, (1, 1.5)), label=f"best epoch, {best}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if all(float(value).is_integer() for values in series.values() for value in values):
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", ylabel=unit)
        axes.legend()

    return _chart(draw)


def scores(held_out: Array, test: Array, thresholds: Mapping[int, float | None], name: str, unit: str) -> bytes:
    """Histograms of calibration and test rows' scores, (n,) each, as densities; the thresholds by level in percent.

    The axis ends a little beyond what is held out and the last threshold; how many rows lie farther is said.
    """
    reached = [value for value in thresholds.values() if value is not None]
    low = min(float(np.min(values, initial=np.inf, where=np.isfinite(values))) for values in (held_out, test))
    high = max([float(np.quantile(held_out, 0.995)), *reached])
    high += 0.15 * (high - low) or 1.0
    edges = np.linspace(low, high, 41)

    def density(values: Array) -> Array:
        return np.histogram(values, edges)[0] / (len(values) * (edges[1] - edges[0]))

    def draw(axes: Axes) -> None:
        axes.stairs(density(held_out), edges, fill=True, color="#c8c8c8", label=f"calibration rows, {len(held_out):,}")
        beyond = int(np.sum(~(test <= high)))
        label = f"test rows, {len(test):,}" + (f" ({beyond:,} farther right)" if beyond else "")
        axes.stairs(density(test), edges, color=BLUE, linewidth=1.2, label=label)
        axes.set_ylim(0, 1.35 * axes.get_ylim()[1])
        for (percent, value), height in zip(thresholds.items(), (0.46, 0.58, 0.7), strict=True):
            if value is not None:
                axes.axvline(value, ymax=height, color=BLACK, linewidth=0.9)
                place = (value, height)
                axes.annotate(f" {percent} %", place, xycoords=("data", "axes fraction"), fontsize=8, va="top")
        axes.set(xlabel=f"{name} ({unit})" if unit else name, ylabel="density", xlim=(low, high))
        axes.legend(loc="upper right")

    return _chart(draw)


def false_alarms(
    levels: Array, shares: Mapping[str, Array], band: tuple[Array, Array], marked: Sequence[float]
) -> bytes:
    """The share of normal rows at or below each p-value, beside what exchangeable rows give; all within (0, 1]."""

    def draw(axes: Axes) -> None:
        axes.fill_between(levels, *band, color="#dcdcdc", linewidth=0, label="95 % range if exchangeable")
        axes.plot(levels, levels, color=GREY, linewidth=1, label="exact")
        for (name, share), (colour, dashes) in zip(shares.items(), SERIES, strict=False):
            shown = share > 0
            axes.plot(levels[shown], share[shown], dashes, color=colour, label=name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        lowest = max(levels[0], 1e-4)
        axes.set(xlim=(lowest, 1), ylim=(lowest / 2, 1.2))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
            axis.set_minor_formatter(NullFormatter())
            axis.set_ticks([tick for tick in (0.0001, 0.001, *marked, 1) if tick >= lowest])
        axes.set(xlabel="p-value at most", ylabel="share of normal test rows")
        axes.legend(loc="upper left")

    return _chart(draw)


def bars(values: Array, names: Sequence[str], xlabel: str, ylabel: str) -> bytes:
    """A bar for each value."""

    def draw(axes: Axes) -> None:
        axes.bar(np.arange(len(values)), values, width=0.8, color=BLUE)
        axes.grid(visible=False, axis="x")
        _name(axes, names)
        axes.set(xlabel=xlabel, ylabel=ylabel)

    return _chart(draw)


def moments(
    posterior: tuple[Array, Array], prior: tuple[Array, Array], names: Sequence[str], xlabel: str, ylabel: str
) -> bytes:
    """Mean ± standard deviation of each latent under the aggregate posterior, over those under the prior."""

    def draw(axes: Axes) -> None:
        positions = np.arange(len(names))
        axes.bar(positions, 2 * prior[1], 0.9, prior[0] - prior[1], color="#dcdcdc", label="prior")
        label = "aggregate posterior"
        axes.errorbar(positions, *posterior, fmt="o", color=BLUE, markersize=3, linewidth=1, label=label)
        axes.grid(visible=False, axis="x")
        _name(axes, names)
        axes.set_ylim(top=axes.get_ylim()[1] + 0.2 * np.ptp(axes.get_ylim()))
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.legend(loc="upper right", ncols=2)

    return _chart(draw)


def scatter(clouds: Mapping[str, Array], xlabel: str, ylabel: str) -> bytes:
    """Points of the plane, (n, 2) each: the first cloud pale behind, the last one on top."""
    looks = (("o", "#c8c8c8", 8), ("o", BLUE, 8), ("x", VERMILION, 18))

    def draw(axes: Axes) -> None:
        for (name, points), (marker, colour, size) in zip(clouds.items(), looks, strict=False):
            # Vector files of thousands of points are no concern here: these are pixels.
            lines = 1.0 if marker == "x" else 0.0
            axes.scatter(points[:, 0], points[:, 1], s=size, marker=marker, color=colour, linewidths=lines, label=name)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(xlabel=xlabel, ylabel=ylabel)
        # Above the points, which may be anywhere.
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=3, markerscale=1.5)

    return _chart(draw)


def _name(axes: Axes, names: Sequence[str]) -> None:
    """Names below the bars; only some of them where there is no room for all."""
    step = -(-len(names) // 20)
    axes.set_xticks(np.arange(len(names))[::step], names[::step])
