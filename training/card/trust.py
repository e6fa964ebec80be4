"""The card's sections that say how far the scores can be trusted: thresholds, calibration, detection, baselines."""

from collections.abc import Iterator

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from service.bundle import Array
from training.card import charts
from training.card.alarms import LEVELS, expected_alarms, threshold
from training.card.inputs import CardInputs
from training.card.page import Cell, Number, Picture, Section, Table, percent


def sections(inputs: CardInputs) -> Iterator[Section]:
    """Scores and calibration; detection where there are labels, baselines where there are any."""
    yield _scores(inputs)
    yield _calibration(inputs)
    if inputs.labels is not None:
        yield _detection(inputs, inputs.labels)
    if inputs.baselines:
        yield _baselines(inputs)


def _scores(inputs: CardInputs) -> Section:
    pictures = []
    rows: list[list[Cell]] = []
    for name, values in inputs.scores.items():
        held_out = inputs.calibration[name]
        thresholds = {level: threshold(held_out, level) for level in LEVELS}
        for level, value in thresholds.items():
            rank = level * (len(held_out) + 1) // 100
            normal = inputs.p_values[name][inputs.normal]
            low, high = expected_alarms(rank, len(held_out), len(normal)) if rank else (0, 0)
            alarms = int(np.sum(normal <= level / 100))
            rows.append(
                [
                    f"{name}, {level} %",
                    "out of reach: too few calibration rows" if value is None else Number(value, 5),
                    f"{alarms:,} of {len(normal):,} ({percent(alarms / len(normal))})",
                    f"{low:,} to {high:,}",
                ]
            )
        unit = "" if name in inputs.manifest.graph_scores else "nats"
        groups = {"test rows": values}
        if inputs.labels is not None:
            groups = {"normal test rows": values[inputs.normal], "anomalies": values[inputs.labels]}
        pictures.append(
            Picture(
                f"score-{name}",
                charts.scores(held_out, groups, thresholds, name, unit),
                f"Histograms of {name} for calibration rows and {' and '.join(groups)}, with thresholds "
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
    num_held_out, num_rows = len(inputs.default_calibration), int(inputs.normal.sum())
    ranks = np.unique(np.geomspace(1, num_held_out, 60).round().astype(int))
    levels = ranks / (num_held_out + 1)
    ranges = np.array([expected_alarms(int(rank), num_held_out, num_rows) for rank in ranks]) / num_rows
    # p-values and levels are both quotients, so equal ones may differ in the last digit.
    shares = {name: np.mean(p[inputs.normal] <= levels[:, None] + 1e-12, axis=1) for name, p in inputs.p_values.items()}
    curve = Picture(
        "calibration",
        charts.false_alarms(levels, shares, (ranges[:, 0], ranges[:, 1]), [level / 100 for level in LEVELS]),
        "Share of normal test rows whose p-value is at most each level, against that level, both logarithmic: "
        + "; ".join(
            f"{name} " + ", ".join(f"{100 * np.mean(p[inputs.normal] <= q / 100):.2g} % at {q} %" for q in LEVELS)
            for name, p in inputs.p_values.items()
        ),
        "On the diagonal, alarms come exactly as often as the level says. The band is where 19 of 20 curves lie at "
        "each level if test and calibration rows are exchangeable; curves above it mean more false alarms than "
        "promised.",
    )
    return Section(
        "calibration",
        "Calibration",
        f"p-values of {num_rows:,} {'test' if inputs.labels is None else 'normal test'} rows against "
        f"{num_held_out:,} calibration rows, neither of which the model learned from.",
        pictures=[curve],
    )


def _detection(inputs: CardInputs, labels: Array) -> Section:
    curves: dict[str, tuple[Array, Array]] = {}
    precision: dict[str, tuple[Array, Array]] = {}
    rows: list[list[Cell]] = []
    for name, scores in inputs.scores.items():
        ranks = rankdata(np.nan_to_num(scores, nan=np.inf))  # These figures are of the order alone.
        area, average = float(roc_auc_score(labels, ranks)), float(average_precision_score(labels, ranks))
        false, true, _ = roc_curve(labels, ranks)
        curves[f"{name}, AUROC {area:.3f}"] = (false, true)
        precise, recall, _ = precision_recall_curve(labels, ranks)
        precision[f"{name}, AP {average:.3f}"] = (recall, precise)
        found = [float(np.mean(inputs.p_values[name][labels] <= level / 100)) for level in LEVELS]
        rows.append([name, Number(area), Number(average), *map(percent, found)])
    share = float(labels.mean())
    return Section(
        "detection",
        "Detection",
        f"{int(labels.sum()):,} of {len(labels):,} test rows are labelled anomalies ({percent(share)}).",
        [
            Table(
                "Area under the ROC curve, average precision, and the share of anomalies found at a level of false "
                "alarms.",
                ["score", "AUROC", "AP", *(f"found at {level} %" for level in LEVELS)],
                rows,
            )
        ],
        [
            Picture(
                "roc",
                charts.rates(curves, "false positive rate", "true positive rate", (0, 1)),
                "ROC curves: " + "; ".join(curves),
                "Receiver operating characteristic: anomalies found against false alarms, over all thresholds.",
            ),
            Picture(
                "precision-recall",
                charts.rates(precision, "recall", "precision", (share, share)),
                "Precision-recall curves: " + "; ".join(precision),
                "Precision and recall over all thresholds; precision depends on how common anomalies are among these "
                "rows.",
            ),
        ],
    )


def _baselines(inputs: CardInputs) -> Section:
    names = list(dict.fromkeys(name for row in inputs.baselines.values() for name in row))
    rows: list[list[Cell]] = [
        [method, *(Number(row[name]) if name in row else "–" for name in names)]
        for method, row in inputs.baselines.items()
    ]
    return Section(
        "baselines",
        "Baselines",
        tables=[Table("Other methods on the same rows.", ["method", *names], rows)],
    )
