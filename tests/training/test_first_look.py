"""The first look at the data: what is refused before torch is imported."""

from pathlib import Path

import pytest
from rich.console import Console

from service.errors import FileError
from training.first_look import look


@pytest.mark.parametrize(
    ("lines", "why"), [(["1"] * 3, "3 rows are too few"), (["1", "2", "3"] * 9, "3 distinct rows are too few")]
)
def test_too_few_rows_are_refused_at_the_first_look(lines: list[str], why: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(["a,b", *(f"{line},{line}" for line in lines)]), "utf-8")
    with pytest.raises(FileError, match=f"{why} for 4 parts"):
        look("table", ["--data", str(path), "--dataset.columns", "a=numeric", "--split.seed", "1"], Console(quiet=True))
