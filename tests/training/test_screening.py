"""Training rows are ranked by models that were not trained on them, through the command."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.cli import main
from training.datasets.image_folder import ImageFolder
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


def test_pictures_are_named_by_their_files(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(90, 110, (60, 4, 4), np.uint8)
    pixels[7] = 255 - pixels[7] * 2
    for i, picture in enumerate(pixels):
        path = tmp_path / "pictures" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    screen = tmp_path / "screen.csv"
    arguments = ["train", "images", "--data", str(tmp_path / "pictures"), "--screen", str(screen)]
    smaller = ["--fit.steps", "20", "--bound.num_draws", "4"]
    main([*arguments, *smaller, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)])
    with screen.open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["file"] for row in rows) == sorted(map(str, (tmp_path / "pictures").iterdir()))
    assert "7.png" in {Path(row["file"]).name for row in rows[:3]}
    screen.write_text(
        screen.read_text().replace('/7.png",,', '/7.png",anomaly,').replace("/7.png,,", "/7.png,anomaly,")
    )
    dataset = ImageFolder(exclude_labels=screen).load(tmp_path / "pictures")
    assert dataset.excluded is not None
    np.testing.assert_array_equal(dataset.excluded.rows, pixels[[7]])
