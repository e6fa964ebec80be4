"""Labels are told from features."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import FileError
from tests.training.datasets.files import write
from training.datasets.numpy_arrays import NumpyArrays
from training.datasets.table import Table


def test_labels_of_an_npz_file(tmp_path: Path) -> None:
    rows, y = np.arange(12.0).reshape(4, 3), np.array([0, 1, 0, 1])
    np.savez(tmp_path / "x.npz", X=rows, y=y, column=y[:, None], three=np.array([0, 1, 2, 0]), short=y[:3])
    anomalous = NumpyArrays().load_labels(tmp_path / "x.npz", "y")
    np.testing.assert_array_equal(NumpyArrays().load(tmp_path / "x.npz").rows, rows)
    assert anomalous.tolist() == [False, True, False, True]
    assert NumpyArrays().load_labels(tmp_path / "x.npz", "column").tolist() == anomalous.tolist()
    for name, reason in (
        ("three", "three[2] = 2 is neither 0 (normal) nor 1 (anomalous)"),
        ("short", "'short' of shape (3,) is not one label for each of 4 rows"),
        ("z", "holds no 'z' but X, y"),
    ):
        with pytest.raises(FileError, match=re.escape(reason)):
            NumpyArrays().load_labels(tmp_path / "x.npz", name)
    np.save(tmp_path / "x.npy", rows)
    with pytest.raises(FileError, match=r"keep rows and 'y' in an \.npz file"):
        NumpyArrays().load_labels(tmp_path / "x.npy", "y")


@pytest.mark.parametrize("labels", ["01001", ["false", "true", "false", "false", "true"]])
def test_labels_of_a_table(labels: Any, tmp_path: Path) -> None:
    lines = [f"{i}.5,{label},{'ab'[i % 2]}" for i, label in enumerate(labels)]
    path = write(tmp_path / "x.csv", "\n".join(["size,odd,kind", *lines]))
    assert Table().load_labels(path, "odd").tolist() == [False, True, False, False, True]
    assert Table(exclude=("kind=a",)).load_labels(path, "odd").tolist() == [True, False]
    with pytest.raises(FileError, match=r"row 1 .line 2., column 'kind': 'a' is not a number, and no label of 0 or 1"):
        Table().load_labels(path, "kind")
    with pytest.raises(FileError, match="label: no column 'od' among size, odd, kind; did you mean 'odd'"):
        Table().load_labels(path, "od")


def test_rows_for_evaluation_need_no_row_that_training_would_exclude(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "size,odd,bad\n" + "".join(f"{n / 3},{n % 2},{int(n == 7)}\n" for n in range(40)))
    source = Table(exclude=("bad=1",), drop=("odd",))
    data = source.load(path).input
    normal = write(tmp_path / "normal.csv", "size,odd,bad\n0.5,1,0\n2.5,0,0\n")
    without = write(tmp_path / "without.csv", "size,odd\n0.5,1\n2.5,0\n")
    for other in (normal, without):
        dataset = source.load_rows(other, data)
        assert (dataset.rows.tolist(), dataset.excluded) == ([[0.5], [2.5]], None)
        assert source.load_labels(other, "odd").tolist() == [True, False]
    with pytest.raises(FileError, match="exclude: no row has bad=1"):
        source.load(normal)


def test_labelled_anomalies_of_an_array_are_kept_for_evaluation(tmp_path: Path) -> None:
    rows, path, labels = np.arange(12.0).reshape(4, 3), tmp_path / "x.npz", tmp_path / "labels.csv"
    np.savez(path, X=rows, y=np.array([0, 1, 0, 1]))
    labels.write_text("row,label\n2,anomaly\n3,normal\n")
    source = NumpyArrays(exclude_labels=labels)
    dataset = source.load(path)
    assert dataset.excluded is not None
    np.testing.assert_array_equal(dataset.rows, rows[[0, 2, 3]])
    np.testing.assert_array_equal(dataset.excluded.rows, rows[[1]])
    assert source.load_labels(path, "y").tolist() == [False, False, True]
    labels.write_text("id,label\n2,anomaly\n")
    with pytest.raises(FileError, match=r"none of its 1 anomalies is a row of .*x.npz, by 'id'"):
        source.load(path)


def test_labelled_anomalies_are_kept_for_evaluation(tmp_path: Path) -> None:
    path, labels = tmp_path / "t.csv", tmp_path / "labels.csv"
    path.write_text("id,a\n" + "".join(f"p{n},{n / 3}\n" for n in range(40)))
    for text in ("id,label\np3,anomaly\np5,normal\np39,1\ngone,anomaly\n", "label,row\nanomaly,4\nnormal,6\nTrue,40\n"):
        labels.write_text(text)
        source = Table(drop=("id",), exclude_labels=labels)
        dataset = source.load(path)
        assert dataset.excluded is not None
        assert dataset.excluded.numbers.tolist() == [3, 39]
        assert len(dataset.rows) == 38
    assert source.for_other_rows().load(path).excluded is None
    digits = tmp_path / "digits.csv"
    digits.write_text(path.read_text().replace("p", "00"))
    labels.write_text("id;label\n003;anomaly\n0039;anomaly\n5;anomaly\n")
    excluded = source.load(digits).excluded
    assert excluded is not None
    assert excluded.numbers.tolist() == [3, 39]
    for text, said in (
        ("id,label\np5,normal\n", "none of its 0 anomalies is a row of"),
        ("nr,label\np5,anomaly\n", "exclude_labels: no column 'nr' among id, a"),
        ("id,nr,label\np5,1,anomaly\n", "must have the columns 'label' and one other"),
    ):
        labels.write_text(text)
        with pytest.raises(FileError, match=said):
            source.load(path)
