"""Training rows are ranked by models that were not trained on them, through the command."""

import csv
from pathlib import Path

import numpy as np
import pytest

from service.cli import main
from training.datasets.table import Table

ODD = 6


@pytest.fixture(scope="module")
def screened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("screen")
    rng = np.random.default_rng(4)
    size = rng.normal(70, 15, 240)
    rent = 12 * size + rng.normal(0, 40, 240)
    rent[:ODD] = 4_000  # Six alike, of which two lie in each fold or so, and two are equal.
    size[1] = size[0]
    lines = [f"{a:.1f},{b:.0f},{'ab'[i % 2]}" for i, (a, b) in enumerate(zip(size, rent, strict=True))]
    (folder / "rows.csv").write_text("\n".join(["size,rent,kind", *lines]) + "\n")
    arguments = ["train", "table", "--data", str(folder / "rows.csv"), "--screen", str(folder / "screen.csv")]
    smaller = ["--fit.steps", "60", "--bound.num_draws", "4"]
    main([*arguments, *smaller, "--runs", str(folder / "runs"), "--out", str(folder)])
    return folder


def test_planted_rows_come_first_and_say_why(screened: Path) -> None:
    with (screened / "screen.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(int(row["row"]) for row in rows) == list(range(1, 241))
    first = rows[: 3 * ODD]
    assert set(range(1, ODD + 1)) <= {int(row["row"]) for row in first}
    assert [float(row["share"]) for row in rows] == sorted(float(row["share"]) for row in rows)
    for row in rows:
        if int(row["row"]) <= ODD:
            assert row["strangest_1"].startswith("rent: 4,000 (expected ")
    assert not any(row["label"] for row in rows)
    assert not list(screened.rglob("manifest.json"))  # There is no bundle.


def test_the_rows_a_person_labels_are_left_out(screened: Path) -> None:
    lines = (screened / "screen.csv").read_text().splitlines()
    head, *rows = csv.reader(lines)
    labels = screened / "labels.csv"
    with labels.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows([row[0], "anomaly" if int(row[0]) <= ODD else "", *row[2:]] for row in rows)
    dataset = Table(exclude_labels=labels).load(screened / "rows.csv")
    assert dataset.excluded is not None
    assert dataset.excluded.numbers.tolist() == list(range(ODD))
