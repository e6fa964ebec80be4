"""The card's sections that say how far the scores can be trusted: thresholds and calibration."""

from collections.abc import Iterator

import numpy as np

from training.card import charts
from training.card.alarms import LEVELS, expected_alarms, threshold
from training.card.inputs import CardInputs
from training.card.page import Cell, Number, Picture, Section, Table, percent


def sections(inputs: CardInputs) -> Iterator[Section]:
    """Scores and calibration."""
    yield _scores(inputs)
    yield _calibration(inputs)


def _scores(inputs: CardInputs) -> Section:
    pictures = []
    rows: list[list[Cell]] = []
    for name, values in inputs.scores.items():
        held_out = inputs.calibration[name]
        thresholds = {level: threshold(held_out, level) for level in LEVELS}
        for level, value in thresholds.items():
            rank = level * (len(held_out) + 1) // 100
            p = inputs.p_values[name]
            low, high = expected_alarms(rank, len(held_out), len(p)) if rank else (0, 0)
            alarms = int(np.sum(p <= level / 100))
            rows.append(
                [
                    f"{name}, {level} %",
                    "out of reach: too few calibration rows" if value is None else Number(value, 5),
                    f"{alarms:,} of {len(p):,} ({percent(alarms / len(p))})",
                    f"{low:,} to {high:,}",
                ]
            )
        unit = "" if name in inputs.manifest.graph_scores else "nats"
        pictures.append(
            Picture(
                f"score-{name}",
                charts.scores(held_out, values, thresholds, name, unit),
                f"Histograms of {name} for calibration rows and test rows, with thresholds "
                + ", ".join(f"{level} % at {Number(v)}" for level, v in thresholds.items() if v is not None)
                + (f" {unit}." if unit else "."),
                f"{name}: to the right is stranger. A row right of a line is an alarm at that level.",
            )
        )
    table = Table(
        "Alarms: a row is one where its score exceeds the threshold, which is where its p-value is at most the level.",
        ["score, level", "threshold", "alarms among normal test rows", "95 % range if exchangeable"],
        rows,
    )
    return Section("scores", "Scores and thresholds", tables=[table], pictures=pictures)


def _calibration(inputs: CardInputs) -> Section:
    num_held_out, num_rows = len(inputs.default_calibration), len(inputs.test)
    ranks = np.unique(np.geomspace(1, num_held_out, 60).round().astype(int))
    levels = ranks / (num_held_out + 1)
    ranges = np.array([expected_alarms(int(rank), num_held_out, num_rows) for rank in ranks]) / num_rows
    # p-values and levels are both quotients, so equal ones may differ in the last digit.
    shares = {name: np.mean(p <= levels[:, None] + 1e-12, axis=1) for name, p in inputs.p_values.items()}
    curve = Picture(
        "calibration",
        charts.false_alarms(levels, shares, (ranges[:, 0], ranges[:, 1]), [level / 100 for level in LEVELS]),
        "Share of normal test rows whose p-value is at most each level, against that level, both logarithmic: "
        + "; ".join(
            f"{name} " + ", ".join(f"{100 * np.mean(p <= q / 100):.2g} % at {q} %" for q in LEVELS)
            for name, p in inputs.p_values.items()
        ),
        "On the diagonal, alarms come exactly as often as the level says. The band is where 19 of 20 curves lie at "
        "each level if test and calibration rows are exchangeable; curves above it mean more false alarms than "
        "promised.",
    )
    return Section(
        "calibration",
        "Calibration",
        f"p-values of {num_rows:,} test rows against "
        f"{num_held_out:,} calibration rows, neither of which the model learned from.",
        pictures=[curve],
    )
