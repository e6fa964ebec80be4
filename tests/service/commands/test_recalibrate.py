"""`lowerbound recalibrate`: the next version of a bundle, whose held-out rows change as labels say."""

from pathlib import Path

import numpy as np
import pytest

from service.bundle import CALIBRATION, Array, describe_files, read_bundle, write_arrays, write_bundle
from service.commands.recalibrate import main
from service.errors import FileError
from tests.service.commands.conftest import LabelledPictures
from tests.service.toy_bundles import table_files


def scores_of(ages: Array) -> Array:
    """The toy model's `negative_elbo` of red rows."""
    return ages**2 + ages


@pytest.fixture
def held_out() -> Array:
    return np.random.default_rng(1).uniform(0, 50, 99)


@pytest.fixture
def bundle(tmp_path: Path, held_out: Array) -> Path:
    """A bundle with a card, whose held-out rows are known."""
    manifest, files = table_files()
    noise = np.linspace(-1, 1, manifest.num_draws * 2, dtype=np.float32).reshape(-1, 2)
    files |= {
        CALIBRATION: write_arrays({"noise": noise, "negative_elbo": np.sort(scores_of(held_out))}),
        "card/index.html": b"the card",
    }
    return write_bundle(tmp_path / "models", manifest.model_copy(update={"files": describe_files(files)}), files)


def write_rows(folder: Path, ages: Array) -> Path:
    path = folder / "rows.csv"
    path.write_text("id,age,colour\n" + "".join(f"p{i},{age!r},red\n" for i, age in enumerate(ages.tolist())))
    return path


def test_normal_rows_come_in_and_anomalies_go_out(
    bundle: Path, held_out: Array, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = np.random.default_rng(2).uniform(0, 50, 40)
    rows = write_rows(tmp_path, np.concatenate([new, held_out[:3], [900.0, 7.0]]))
    labels = tmp_path / "labels.csv"
    kinds = ["normal"] * 40 + ["anomaly"] * 4  # The last row has no label.
    labels.write_text("id,label\n" + "".join(f"p{i},{kind}\n" for i, kind in enumerate(kinds)))
    main([str(bundle), "--data", str(rows), "--labels", str(labels), "--key", "id", "--device", "cpu"])
    said = capsys.readouterr()
    place = Path(said.out.strip())
    assert place == bundle.with_name("2")
    assert said.err == (
        "added 40 normal rows; left out 4 anomalies, 3 of which were held-out rows\n"
        "99 → 136 held-out rows: the smallest p-value is 0.0073\n"
    )
    before, after = read_bundle(bundle), read_bundle(place)
    expected = np.sort(scores_of(np.concatenate([held_out[3:], new])))
    np.testing.assert_allclose(after.calibration["negative_elbo"], expected, rtol=1e-12)
    np.testing.assert_array_equal(after.calibration["noise"], before.calibration["noise"])
    manifest = after.manifest
    assert (manifest.version, manifest.calibration.rows, manifest.created > before.manifest.created) == (2, 136, True)
    (step,) = manifest.provenance.recalibrations
    assert (step.version, step.bundle, step.added, step.removed) == (1, before.digest, 40, 3)
    assert manifest.graphs == before.manifest.graphs
    assert after.files.keys() == before.files.keys() - {"card/index.html"}

    main([str(place), "--data", str(write_rows(tmp_path, new[:5])), "--device", "cpu"])
    assert "5 of them with the scores of held-out rows: do not add a row twice" in capsys.readouterr().err
    assert [step.version for step in read_bundle(bundle.with_name("3")).manifest.provenance.recalibrations] == [1, 2]


def test_pictures_are_named_by_their_files(pictures: LabelledPictures, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, folder, labels = map(str, pictures)
    main([bundle, "--data", folder, "--labels", labels, "--key", "file", "--device", "cpu"])
    assert "added 1 normal rows; left out 1 anomalies" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("row,label\n1,anomaly\n", "no row to add, and no anomaly among the held-out rows"),
        ("row,label\n3,normal\n", r"row 3.age: 'x' is not a number"),
        ("row,label\n4,normal\n", r"row 4.colour: 'pink'"),
        ("row,label\n2,normal\n", "row 2 is too far from the training data for a finite bound"),
        ("row,label\n9,normal\n", "row '9' is not in"),
        ("row,label\n1,normal\n1,anomaly\n", "row '1' is labelled both normal and anomaly"),
    ],
)
def test_nothing_is_written_where_rows_or_labels_are_wrong(
    bundle: Path, tmp_path: Path, labels: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.bulk.job.BATCH_ROWS", 2)
    rows, file = tmp_path / "rows.csv", tmp_path / "labels.csv"
    rows.write_text("age,colour\n100,red\n1e200,red\nx,red\n7,pink\n")
    file.write_text(labels)
    with pytest.raises(FileError, match=said):
        main([str(bundle), "--data", str(rows), "--labels", str(file), "--device", "cpu"])
    assert not bundle.with_name("2").exists()
