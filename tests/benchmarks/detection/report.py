"""Markdown tables of finished cells."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeVar

from tests.benchmarks.detection.cells import Cell
from tests.benchmarks.detection.methods import OURS
from training.evaluation.detection import LEVELS

MEAN = "**mean**"

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """A finished cell and what it is of."""

    experiment: str
    case: str
    method: str
    seed: int
    contamination: float
    cell: Cell


def line(*cells: object) -> str:
    """A row of a markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and, of more than one value, the standard deviation."""
    mean = f"{fmean(values):.{digits}f}"
    return f"{mean} ± {stdev(values):.{digits}f}" if len(values) > 1 else mean


def detection_table(rows: Sequence[Row], measure: str = "auroc") -> str:
    """A measure in percent for every case and method: mean ± standard deviation over the seeds, the best in bold."""
    methods = _unique(row.method for row in rows)
    cases = _unique((row.case, name) for row in rows for name in row.cell.get("figures", {}))
    lines = [line(f"{measure.replace('_', ' ')}, %", *methods), "|---|" + "---:|" * len(methods)]
    means: dict[str, list[float]] = {method: [] for method in methods}
    for case, anomalies in cases:
        found = {method: _figures(rows, method, case, anomalies, measure) for method in methods}
        for method, values in found.items():
            if values:
                means[method].append(fmean(values))
        lines.append(line(f"{case}: {anomalies}", *_bold_best(found)))
    if len(cases) > 1:
        # Only methods that have every case have a mean to compare.
        whole = {method: values if len(values) == len(cases) else [] for method, values in means.items()}
        lines.append(line(MEAN, *_bold_best({method: [fmean(v)] if v else [] for method, v in whole.items()})))
    return "\n".join(lines)


def score_table(rows: Sequence[Row]) -> str:
    """Our scores beside each other: means over all cases and seeds, in percent; the default is marked."""
    ours = [row for row in rows if row.method == OURS]
    measures = ("auroc", "average_precision", *(f"detection_at_{level:.0%}" for level in LEVELS))
    lines = [line("score", "default", *(m.replace("_", " ") for m in measures)), "|---|" + "---:|" * 6]
    for score in _unique(name for row in ours for part in row.cell["figures"].values() for name in part):
        parts = [part[score] for row in ours for part in row.cell["figures"].values()]
        chosen = sum(row.cell["default"] == score for row in ours)
        means = (f"{100 * fmean(part[measure] for part in parts):.2f}" for measure in measures)
        lines.append(line(score, f"{chosen} of {len(ours)}", *means))
    return "\n".join(lines)


def column_table(rows: Sequence[Row]) -> str:
    """The tables: their size, and the columns that trap detectors."""
    names = ("training rows", "test rows", "anomalies", "columns", "constant in training", "whole numbers")
    lines = [line("", *names), "|---|" + "---:|" * len(names)]
    for case, cell in {row.case: row.cell for row in rows}.items():
        counts = (*cell["rows"].values(), *cell["columns"].values())
        lines.append(line(case, *(f"{count:,}" for count in counts)))
    return "\n".join(lines)


def false_alarm_table(rows: Sequence[Row], title: Callable[[str], str]) -> str:
    """Rates of false alarms and mean false-discovery proportions, in percent, with their standard errors."""
    kinds = [*(f"alarms at {level:.0%}" for level in LEVELS), *(f"discoveries at {level:.0%}" for level in LEVELS)]
    names = [
        kind.replace("alarms at", "false alarms, α =").replace("discoveries at", "mean FDP, q =") for kind in kinds
    ]
    lines = [line("", "normal rows", *names), "|---|" + "---:|" * (1 + len(kinds))]
    groups = _unique((row.experiment, row.case if row.experiment in ("shift", "tables") else "") for row in rows)
    for experiment, case in groups:
        parts = [row.cell for row in rows if row.experiment == experiment and case in ("", row.case)]
        parts = [cell for cell in parts if cell["false_alarms"]]
        if not parts:
            continue
        cells = []
        for kind in kinds:
            means, errors = zip(*(cell["false_alarms"][kind] for cell in parts), strict=True)
            # Independent models: the error of their mean.
            error = sum(e**2 for e in errors) ** 0.5 / len(parts)
            level = float(kind.rpartition(" ")[2].rstrip("%")) / 100
            outside = " **outside**" if fmean(means) > level + 3 * error else ""
            cells.append(f"{100 * fmean(means):.2f} ± {100 * error:.2f}{outside}")
        counts = sorted({cell["rows"]["normal"] for cell in parts})
        shown = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        lines.append(line(f"{title(experiment)}{': ' + case if case else ''}", shown, *cells))
    return "\n".join(lines)


def contamination_table(rows: Sequence[Row], title: Callable[[str], str]) -> str:
    """Mean AUROC in percent by share of anomalies in the training rows, and the drop to the largest share.

    Half of a task's anomalies are kept for the test, so that not every task reaches that share.
    """
    shares = sorted({row.contamination for row in rows})
    heads = [*(f"{share:.0%}" for share in shares), "drop", "reached, %"]
    lines = [line("", "method", *heads), "|---|---|" + "---:|" * len(heads)]
    for experiment in _unique(row.experiment for row in rows):
        most = [row for row in rows if (row.experiment, row.contamination) == (experiment, shares[-1])]
        reached = [row.cell["contamination"] for row in most]
        for method in _unique(row.method for row in rows):
            means = []
            for share in shares:
                chosen = [
                    row.cell
                    for row in rows
                    if (row.experiment, row.method, row.contamination) == (experiment, method, share)
                ]
                values = [part[cell["default"]]["auroc"] for cell in chosen for part in cell["figures"].values()]
                means.append(100 * fmean(values) if values else None)
            cells = ["" if mean is None else f"{mean:.2f}" for mean in means]
            first, last = means[0], means[-1]
            cells.append("" if first is None or last is None else f"{first - last:.2f}")
            lines.append(
                line(title(experiment), method, *cells, f"{100 * min(reached):.1f} to {100 * max(reached):.1f}")
            )
    return "\n".join(lines)


def _figures(rows: Sequence[Row], method: str, case: str, anomalies: str, measure: str) -> list[float]:
    cells = [row.cell for row in rows if (row.method, row.case) == (method, case) and "figures" in row.cell]
    return [100 * cell["figures"][anomalies][cell["default"]][measure] for cell in cells]


def _bold_best(found: Mapping[str, Sequence[float]]) -> list[str]:
    best = max((fmean(values) for values in found.values() if values), default=0.0)
    return [_bold(spread(values), fmean(values) == best) if values else "" for values in found.values()]


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def _unique(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))
