"""The first look at the data: what is refused before torch is imported."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from service.errors import FileError
from tests.training.datasets.files import write_folder
from training.commands import train
from training.first_look import look, takes_long
from training.recipe_files import RecipeError


def test_no_name_or_cell_steers_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "rows\x1b[1m.csv"
    output = io.StringIO()
    console = Console(file=output, width=200)
    lines = ["[/x]\x1b]0;y\x07,a\x1b[2J", *(f"{'bc['[n % 3]}red]\x1b[2J,{n / 7}" for n in range(40))]
    path.write_text("\n".join(lines), "utf-8")
    look("table", ["--data", str(path)], console)
    lines[8] = "b,x\x1b[2J"
    path.write_text("\n".join(lines), "utf-8")
    with pytest.raises(FileError):
        look("table", ["--data", str(path)], console)
    assert "\x1b" not in output.getvalue()
    for text in ("[/x]\\x1b]0;y\\x07", "[red]\\x1b[2J", "rows\\x1b[1m.csv, row 8"):
        assert text in output.getvalue()


def test_of_very_many_columns_not_all_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    names = [f"c{i}" for i in range(450)]
    lines = [",".join(f"{n * n + i}" if i < 230 else "1" for i in range(450)) for n in range(40)]
    path.write_text("\n".join([",".join(names), *lines]), "utf-8")
    output = io.StringIO()
    look("table", ["--data", str(path)], Console(file=output, width=200))
    assert "and 50 more columns: --dataset.write_schema FILE.yaml writes all of them down" in output.getvalue()
    assert [name for name in names if f" {name} " not in output.getvalue()] == [*names[200:230], *names[430:]]


def test_a_wrong_field_is_named_before_a_folder_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path)
    with pytest.raises(RecipeError, match=r"images.yaml: fit.epochs: Input should be greater than or equal to 1"):
        train(["images", "--data", str(tmp_path), "--fit.epochs", "0"])
    assert capsys.readouterr().err == ""


def test_a_name_that_no_bundle_can_have_is_refused_at_once(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "rows.csv").write_text("a,b\n1,2\n" * 50)
    with pytest.raises(RecipeError, match=r"caf\\udce9/rows.csv: not UTF-8"):
        train(["table", "--data", str(folder / "rows.csv")])


def test_large_data_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a\n1\n")
    for data, long in ((path, False), (tmp_path, True), (tmp_path / "absent", False), ("s3://bucket/rows.csv", True)):
        assert takes_long("table", ["--data", str(data)]) == long
    assert not takes_long("digits", [])
    monkeypatch.setattr("training.first_look.LARGE", 3)
    assert takes_long("table", ["--data", str(path)])


@pytest.mark.parametrize(
    ("lines", "why"), [(["1"] * 3, "3 rows are too few"), (["1", "2", "3"] * 9, "3 distinct rows are too few")]
)
def test_too_few_rows_are_refused_at_the_first_look(lines: list[str], why: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(["a,b", *(f"{line},{line}" for line in lines)]), "utf-8")
    with pytest.raises(FileError, match=f"{why} for 4 parts"):
        look("table", ["--data", str(path), "--dataset.columns", "a=numeric", "--split.seed", "1"], Console(quiet=True))
