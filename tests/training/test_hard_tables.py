"""Tables of hard shapes are trained on, served and scored, or refused by the name of the column."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet  # type: ignore[import-untyped]
import pytest

from service.cli import main
from service.readers.text import find_format, records
from tests.conftest import Serve
from tests.training.datasets.generated_tables import HARD, write

SMALL = (
    *("--fit.epochs", "1", "--fit.batch_size", "512"),
    *("--model.widths", "[16]", "--model.latent_size", "2", "--model.prior", "standard_normal"),
    *("--bound.num_draws", "4", "--bound.refine", "0"),
    # So few that all tables have as many, and those of the same columns the same graphs.
    *("--fit.exemplars", "8"),
)
REFUSED = {
    "one category": r"no column is left \('a': constant: 'EUR' in every row; 'b': every cell is missing",
    "broken": r"row 4 \(line 5\), column 'a': 'oops' is not a number",
}
SENT = 50
"""Rows of each table that are sent over HTTP."""


def sent_rows(path: Path) -> bytes:
    """The first rows of a file, every cell as its text."""
    (_, header), *lines = records(str(path), find_format(str(path)))
    return json.dumps({"instances": [dict(zip(header, line, strict=True)) for _, line in lines[:SENT]]}).encode()


@pytest.mark.slow
def test_hard_tables_are_trained_on_served_and_scored(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {}
    for number, (title, make) in enumerate(HARD.items()):
        path, name = write(make(np.random.default_rng(number)), tmp_path / f"{title}.csv"), f"hard-{number}"
        places = ("--name", name, "--out", str(tmp_path / "models"), "--runs", str(tmp_path / "runs"))
        status = main(["train", "table", "--data", str(path), *SMALL, *places])
        said = capsys.readouterr().err
        assert status == (title in REFUSED), f"{title}: {said}"
        if status:
            assert re.search(REFUSED[title], said), said
            continue
        # Twenty rows, thirty times each; or few texts.
        repeated = title in {"repeated", "texts alone"}
        assert ("note: 100.0% of the calibration rows repeat training or validation rows" in said) == repeated
        out = tmp_path / "scores" / name
        assert main(["score", str(tmp_path / "models" / name / "1"), str(path), str(out)]) == 0, title
        table = pyarrow.parquet.read_table(out)
        assert table.num_rows == len(path.read_text().splitlines()) - 1
        scores[name] = path, table
    first = next(iter(scores))
    with serve("--models", str(tmp_path / "models"), "--default-model", first, "--engine-threads", "1") as client:
        for name, (path, table) in scores.items():
            assert client.get(f"/models/{name}/model").json()["manifest"]["prior"] == "mixture"  # Of exemplars.
            headers = {"Content-Type": "application/json"}
            answer = client.post(
                f"/models/{name}/elbo", params={"on_error": "mark"}, content=sent_rows(path), headers=headers
            ).raise_for_status()
            for field in ("score", "p_value"):
                expected = table.column(field).slice(0, SENT).to_pylist()
                assert answer.json()[field] == expected, (path.name, field)
