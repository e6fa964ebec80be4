"""`lowerbound threshold`: labels and scores, as people bring them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from service.commands.threshold import main
from service.errors import FileError
from service.scoring import lowest_threshold


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """Eight rows: the strangest has no finite score, and the last cannot be scored."""
    table = {
        "row": range(1, 9),
        "id": [10, 20, 30, 40, 50, 60, 70, 80],
        "score": [None, 9.0, 8.0, 7.0, 7.0, 3.0, 2.0, None],
        "p_value": [0.01, 0.01, 0.02, 0.03, 0.03, 0.5, 0.6, None],
        "discovery": [True, True, False, False, False, False, False, False],
    }
    path = tmp_path / "scores.parquet"
    pyarrow.parquet.write_table(pa.table({name: list(values) for name, values in table.items()}), path)
    return path


def ask(capsys: pytest.CaptureFixture[str], scores: Path, labels: str, *options: str) -> list[str]:
    path = scores.with_name("labels.csv")
    path.write_text(labels)
    main([str(scores), str(path), *options])
    return capsys.readouterr().out.splitlines()


def test_labels_say_how_good_the_calls_are_and_where_the_threshold_lies(
    scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = "id,label\n60,normal\n10,anomaly\n30,anomaly\n20,normal\n40,anomaly\n80,anomaly\n"
    assert ask(capsys, scores, labels, "--key", "id", "--precision", "0.75") == [
        "6 of 8 rows are labelled, 4 of them as anomalies",
        "by discovery: precision 0.50 (1 of 2), recall 0.25 (1 of 4)",
        "score >= 7: precision 0.75 (3 of 4), recall 0.75 (3 of 4); calls 5 of all rows",
    ]
    assert ask(capsys, scores, labels, "--key", "id", "--precision", "1")[2].startswith("score >= inf: precision 1.00")
    assert ask(capsys, scores, "row,label\n2,normal\n3,normal\n")[2:] == [
        "no threshold has a precision of 0.9 on these labels"
    ]


def test_texts_that_are_not_utf_8_are_named(scores: Path, tmp_path: Path) -> None:
    texts = [pa.py_buffer(np.arange(3, dtype=np.int32)), pa.py_buffer(b"a\xff")]
    path = tmp_path / "labels.parquet"
    pyarrow.parquet.write_table(pa.table({"id": pa.Array.from_buffers(pa.string(), 2, [None, *texts])}), path)
    with pytest.raises(FileError, match=r"labels\.parquet: cannot be read: .*Invalid UTF8 sequence"):
        main([str(scores), str(path), "--key", "id"])


def test_labels_are_read_as_tables_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = tmp_path / "scores.csv"
    ids = ["0017", "17", '"=""018"""', "7"]
    rows = [
        f"{n + 1},{name},{9 - n if n else ''},0.{n + 1},{'true' if n < 2 else 'false'}" for n, name in enumerate(ids)
    ]
    scores.write_text("\n".join(["row,id,score,p_value,discovery", *rows, '5,"",,,false']))
    # As a spreadsheet in German or French saves them.
    assert ask(capsys, scores, "id;label;Prüfer\n0017;normal;x\n17;anomaly;y\n018;anomaly;\n", "--key", "id") == [
        "3 of 5 rows are labelled, 2 of them as anomalies",
        "by discovery: precision 0.50 (1 of 2), recall 0.50 (1 of 2)",
        "no threshold has a precision of 0.9 on these labels",
    ]


def test_pictures_are_named_by_the_end_of_their_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = tmp_path / "scores.csv"
    files = ["new/a/1.png", "new/b/1.png", "new/b/2.png"]
    scores.write_text("file,score,p_value\n" + "".join(f"{file},{9 - n},0.{n + 1}\n" for n, file in enumerate(files)))
    labels = "file,label\na/1.png,anomaly\n/data/new/b/1.png,anomaly\n2.png,normal\n"
    assert ask(capsys, scores, labels, "--key", "file") == [
        "3 of 3 rows are labelled, 2 of them as anomalies",
        "score >= 8: precision 1.00 (2 of 2), recall 1.00 (2 of 2); calls 2 of all rows",
    ]
    with pytest.raises(FileError, match=r"file '1.png' may be new/a/1.png or new/b/1.png; write more of its path"):
        ask(capsys, scores, "file,label\n1.png,normal\n", "--key", "file")


def test_scores_may_be_whole_numbers_and_calls_absent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scores.parquet"
    table = {"row": [1, 2], "score": [3, 2], "p_value": [0.1, 0.2], "discovery": [None, True]}
    pyarrow.parquet.write_table(pa.table(table), path)
    assert ask(capsys, path, "row,label\n1,anomaly\n2,normal\n") == [
        "2 of 2 rows are labelled, 1 of them as anomalies",
        "by discovery: precision 0.00 (0 of 1), recall 0.00 (0 of 1)",
        "score >= 3: precision 1.00 (1 of 1), recall 1.00 (1 of 1); calls 1 of all rows",
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("high,0.1,true", "the column 'score' must be of type double: .*'high'"),
        ("2.5,0.1,perhaps", "the column 'discovery' must be of type bool: .*perhaps"),
    ],
)
def test_scores_of_another_type_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: str, said: str
) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(f"row,score,p_value,discovery\n1,{row}\n")
    with pytest.raises(FileError, match=said):
        ask(capsys, path, "row,label\n1,anomaly\n")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("id,label\n11,anomaly\n", "id '11' is not in"),
        ("id,label\n10,perhaps\n", "the label 'perhaps' is none of normal, 0, false, anomaly, 1, true"),
        ("id,verdict\n10,anomaly\n", "no column 'label'; there are id, verdict"),
    ],
)
def test_wrong_labels_are_named(scores: Path, capsys: pytest.CaptureFixture[str], labels: str, said: str) -> None:
    with pytest.raises(FileError, match=said):
        ask(capsys, scores, labels, "--key", "id")


def test_a_file_without_row_numbers_needs_a_key(scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        FileError, match="no column 'row'; there are id, label; --key says which of them names the rows"
    ):
        ask(capsys, scores, "id,label\n10,anomaly\n")


def test_the_lowest_threshold_is_the_best_of_all() -> None:
    """Against every threshold, one by one; equal scores are called together."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        scores, anomalous = rng.integers(0, 6, 12).astype(float), rng.random(12) < 0.5
        found = lowest_threshold(scores, anomalous, 0.7)
        called = [scores >= value for value in np.unique(scores)]
        good = [(anomalous & one).sum() for one in called if (anomalous & one).sum() >= max(0.7 * one.sum(), 1)]
        assert (found.hits if found else 0) == max(good, default=0)
        assert found is None or found.called == (scores >= found.score).sum()


def test_labels_of_just_the_precision_are_enough() -> None:
    for called in range(1, 101):
        for hits in range(1, called + 1):
            if 100 * hits % called == 0:
                anomalous = np.arange(called) < hits
                assert lowest_threshold(np.zeros(called), anomalous, 100 * hits // called / 100), (hits, called)
