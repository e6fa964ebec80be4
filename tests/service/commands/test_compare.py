"""`lowerbound compare`: two models on the same rows."""

from pathlib import Path

import numpy as np
import pytest

from service.commands.compare import main
from service.errors import FileError
from tests.oracle import bring_your_own
from tests.service.commands.conftest import LabelledPictures


def test_two_models_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 2)) @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(600, 4))
    good = bring_your_own.write(tmp_path, "good", bring_your_own.fit(x[:300], 2), x[300:], num_draws=8)
    blind = bring_your_own.write(
        tmp_path, "blind", bring_your_own.fit(rng.normal(size=(300, 4)), 2), x[300:], num_draws=8
    )
    june = rng.permutation(x)[:100].copy()
    june[:20] = rng.normal(0, 1.2, (20, 4))  # Off the plane, and no larger.
    rows, labels = tmp_path / "june.csv", tmp_path / "labels.csv"
    lines = [f"p{i},{','.join(map(repr, row))}" for i, row in enumerate(june.tolist())]
    rows.write_text("\n".join(["id,x0,x1,x2,x3", *lines, "bad,x,1,1,1"]) + "\n")
    labels.write_text("id,label\n" + "".join(f"p{i},{'anomaly' if i < 20 else 'normal'}\n" for i in range(100)))
    options = ("--data", str(rows), "--key", "id", "--device", "cpu")
    main([str(good), str(blind), *options, "--labels", str(labels)])
    out = capsys.readouterr().out
    figures = {line.split("│")[1].strip(): line.split("│")[2:4] for line in out.splitlines() if line.startswith("│")}
    areas = [float(cell.split()[0]) for cell in figures["AUROC"]]
    assert areas[0] > 0.9
    assert areas[0] > areas[1] + 0.1
    assert [cell.strip() for cell in figures["held-out rows"]] == ["300", "300"]
    assert "over 100 rows; 1 other rows have a problem in one of them" in out
    assert "The rows on which they differ most" in out

    main([str(good), str(good), *options])
    assert "rank correlation 1.000 over 100 rows" in capsys.readouterr().out
    rows.write_text("x0,x1,x2,x3\n1,2,3,x\n")
    with pytest.raises(FileError, match=r"row 1\.x3: 'x' is not a number"):
        main([str(good), str(blind), "--data", str(rows), "--device", "cpu"])


def test_labels_name_pictures_by_the_end_of_their_path(
    pictures: LabelledPictures, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    bundle, folder, labels = map(str, pictures)
    main([bundle, bundle, "--data", folder, "--key", "file", "--device", "cpu", "--labels", labels])
    assert "(1 anomalies, 1 normal)" in capsys.readouterr().out
