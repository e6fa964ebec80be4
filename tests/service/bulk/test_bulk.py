"""`lowerbound score` as people run it: its values are those of the endpoints, also after kills."""

import io
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet
import pytest
from PIL import Image

from service.bundle import Array
from service.cli import main
from service.storage import DEFAULT_REPOSITORY
from tests import warm
from tests.conftest import Serve
from tests.service.http_client import ARROW, NPY

DIGITS = DEFAULT_REPOSITORY / "digits" / "1"


def command(*arguments: object) -> list[str]:
    return ["service.cli", "score", *map(str, arguments)]


def bulk(*arguments: object) -> tuple[int, str]:
    done = warm.run(command(*arguments), timeout=120)
    return done.returncode, done.stderr


def kept(folder: Path) -> pa.Table:
    """The answers, to rows without a problem."""
    table = pyarrow.parquet.read_table(folder)
    assert table["problem"].null_count == len(table)
    return table.drop_columns([name for name in ("file", "row", "problem") if name in table.column_names])


def answered(client: httpx.Client, path: str, x: Array, **query: str) -> pa.Table:
    """The endpoint's answer, as Arrow."""
    body = io.BytesIO()
    np.save(body, x)
    headers = {"Content-Type": NPY, "Accept": ARROW}
    answer = client.post(path, content=body.getvalue(), headers=headers, params=query).raise_for_status()
    return pyarrow.ipc.open_stream(answer.content).read_all()


def leaves(name: str, array: pa.Array) -> Iterator[tuple[str, object]]:
    """The parts of a column, each leaf with its bits."""
    if pa.types.is_struct(array.type):
        for i, field in enumerate(array.type):
            yield from leaves(f"{name}.{field.name}", array.field(i))
    elif pa.types.is_fixed_size_list(array.type):
        yield from leaves(f"{name}[{array.type.list_size}]", array.flatten())
    elif pa.types.is_floating(array.type):
        yield f"{name}: {array.type}", (array.null_count, array.to_numpy(zero_copy_only=False).tobytes())
    else:
        yield name, array.to_pylist()


def assert_same_bits(ours: pa.Table, theirs: pa.Table) -> None:
    assert ours.column_names == theirs.column_names
    for name in ours.column_names:
        assert list(leaves(name, ours[name].combine_chunks())) == list(leaves(name, theirs[name].combine_chunks()))


@pytest.fixture(scope="module")
def pixels() -> Array:
    return np.random.default_rng(0).integers(0, 17, (1000, 8, 8), dtype=np.uint8)


@pytest.mark.parametrize(
    "flags", [[], ["--num-draws", "3", "--seed", "0"], ["--refine", "2", "--score", "regret"], ["--explain"]]
)
def test_scores_are_those_over_http(digits: httpx.Client, tmp_path: Path, pixels: Array, flags: list[str]) -> None:
    np.save(tmp_path / "x.npy", pixels)
    status, errors = bulk(DIGITS, tmp_path / "x.npy", tmp_path / "out", *flags)
    assert status == 0, errors
    assert "1,000 rows" in errors
    words = [flag.removeprefix("--").replace("-", "_") for flag in flags]
    query = {"explain": "true"} if flags == ["--explain"] else dict(zip(words[::2], words[1::2], strict=True))
    assert_same_bits(kept(tmp_path / "out"), answered(digits, "/elbo", pixels, **query))


def test_posteriors_and_reconstructions_are_those_over_http(
    digits: httpx.Client, tmp_path: Path, pixels: Array
) -> None:
    np.save(tmp_path / "x.npy", pixels)
    assert bulk(DIGITS, tmp_path / "x.npy", tmp_path / "posteriors", "--operation", "encode")[0] == 0
    posteriors = answered(digits, "/encode", pixels)
    assert_same_bits(kept(tmp_path / "posteriors"), posteriors)
    assert bulk(DIGITS, tmp_path / "x.npy", tmp_path / "means", "--operation", "reconstruct")[0] == 0
    means = posteriors["mean"].combine_chunks()
    assert_same_bits(
        kept(tmp_path / "means"), answered(digits, "/decode", means.flatten().to_numpy().reshape(len(means), -1))
    )


def test_tables_are_scored_from_any_file(serve: Serve, tmp_path: Path, table_bundle: Path) -> None:
    columns = pa.table({"colour": ["red", "blue", None, "red"], "name": list("abcd"), "age": [0.1, None, -2.5, 1e3]})
    pyarrow.parquet.write_table(columns, tmp_path / "rows.parquet")
    pyarrow.csv.write_csv(columns, tmp_path / "rows.csv")
    out = tmp_path / "out"
    assert bulk(table_bundle, tmp_path / "rows.parquet", tmp_path / "rows.csv", out)[0] == 0
    x = np.array([[0.1, 0], [np.nan, 1], [-2.5, np.nan], [1e3, 0]])
    with serve("--models", str(table_bundle.parents[1])) as client:
        assert_same_bits(kept(out), answered(client, "/elbo", np.concatenate([x, x])))
        assert bulk(table_bundle, tmp_path / "rows.csv", tmp_path / "means", "--operation", "reconstruct")[0] == 0
        posteriors = answered(client, "/encode", x)["mean"].combine_chunks().flatten().to_numpy().reshape(4, 2)
        assert_same_bits(kept(tmp_path / "means"), answered(client, "/decode", posteriors))


def test_pictures_are_scored_under_their_names(digits: httpx.Client, tmp_path: Path, pixels: Array) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, picture in enumerate(pixels[:20]):
        Image.fromarray(np.round(picture * (255 / 16)).astype(np.uint8)).save(folder / f"{i:02d}.png")
    assert bulk(DIGITS, folder, tmp_path / "out")[0] == 0
    scores = kept(tmp_path / "out")
    files = pyarrow.parquet.read_table(tmp_path / "out")["file"].to_pylist()
    assert files == [str(folder / f"{i:02d}.png") for i in range(20)]
    assert_same_bits(scores, answered(digits, "/elbo", pixels[:20]))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_run_that_ends_early_goes_on(tmp_path: Path, number: signal.Signals, status: int) -> None:
    rows = 500_000
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 17, (rows, 8, 8), dtype=np.uint8))
    out = tmp_path / "out"
    for parts in (1, 3):
        process = warm.start(command(DIGITS, tmp_path / "x.npy", out, "--num-draws", "1"), tmp_path / "log")
        while len(list(out.glob("part-*"))) < parts:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(60) == status
    assert not (out / "_done").exists()
    assert bulk(DIGITS, tmp_path / "x.npy", out, "--num-draws", "1")[0] == 0
    assert bulk(DIGITS, tmp_path / "x.npy", tmp_path / "straight", "--num-draws", "1")[0] == 0
    assert kept(out).num_rows == rows
    assert_same_bits(kept(out), kept(tmp_path / "straight"))


def test_a_wrong_row_is_marked_and_the_run_goes_on(tmp_path: Path, table_bundle: Path) -> None:
    text = "age,colour\n1.5,red\nold,blue\n1e200,red\n2,green\n-3,blue\n"
    (tmp_path / "rows.csv").write_text(text)
    status, errors = bulk(table_bundle, tmp_path / "rows.csv", tmp_path / "out")
    assert status == 0, errors
    place = f"{tmp_path}/rows.csv: row"
    problems = [
        None,
        f"{place} 2.age: 'old' is not a number",
        f"{place} 3: too far from the training data for a finite bound",
        f"{place} 4.colour: 'green' is not a known category; known are 'red', 'blue'; scored without it",
        None,
    ]
    for problem in filter(None, problems):
        assert problem in errors
    assert f"{tmp_path}/out: 5 rows, 3 with a problem: see the column 'problem'" in errors
    table = pyarrow.parquet.read_table(tmp_path / "out").to_pydict()
    assert table["problem"] == problems
    assert [value is None for value in table["elbo"]] == [False, True, True, False, False]
    assert table["p_value"][1] is None
    assert table["p_value"][2] == min(value for value in table["p_value"] if value is not None)
    status, errors = bulk(table_bundle, tmp_path / "rows.csv", tmp_path / "strict", "--unseen", "error")
    assert status == 0, errors
    strict = pyarrow.parquet.read_table(tmp_path / "strict").to_pydict()
    assert [value is None for value in strict["elbo"]] == [False, True, True, True, False]
    assert [strict["elbo"][i] for i in (0, 4)] == [table["elbo"][i] for i in (0, 4)]


def test_a_file_of_wrong_rows_alone_leaves_the_next_one_its_columns(tmp_path: Path, explaining_table: Path) -> None:
    """The columns of the first batch are those of the output, and it has no value in any."""
    (tmp_path / "a.csv").write_text("age,colour\nold,blue\n")
    (tmp_path / "b.csv").write_text("age,colour\n2,blue\n")
    status, errors = bulk(explaining_table, tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "out", "--explain")
    assert status == 0, errors
    rows = pyarrow.parquet.read_table(tmp_path / "out").to_pydict()
    assert [cells["age"] for cells in rows["feature_surprise"]] == [None, 6]
    assert [cells["colour"] for cells in rows["feature_expected"]] == [None, "red"]


def test_no_cell_or_name_styles_or_steers_the_terminal(tmp_path: Path, explaining_table: Path) -> None:
    (tmp_path / "rows.csv").write_text("[/i],age,colour\n[/b]\x1b[2J,1.5,red\n[red],old\x1b[2J,blue\n")
    status, errors = bulk(explaining_table, tmp_path / "rows.csv", tmp_path / "scores.csv", "--keep", "[/i]")
    assert status == 0, errors
    for shown in ("[/i]", "[/b]\\x1b[2J", "'old\\x1b[2J' is not a number"):
        assert shown in errors
    assert "\x1b" not in errors


def test_one_file_for_people(tmp_path: Path, explaining_table: Path) -> None:
    """Row numbers, columns kept, the strangest cells and rows, and discoveries among all rows, in one file."""
    ids = [f"payment-of-may-{i}" for i in range(1, 6)]
    cells = ("1.5,red", "old,blue", "1e200,red", "2,blue", "-4,blue")
    lines = ["id,age,colour", *(f"{key},{row}" for key, row in zip(ids, cells, strict=True))]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    asked = (explaining_table, tmp_path / "rows.csv", tmp_path / "scores.csv", "--keep", "id", "--explain", "--fdr")
    status, errors = bulk(*asked, "0.5")
    assert status == 0, errors
    assert sorted(path.name for path in tmp_path.iterdir() if "scores" in path.name) == ["scores.csv"]
    rows = pyarrow.csv.read_csv(tmp_path / "scores.csv").to_pydict()
    assert rows["row"] == [1, 2, 3, 4, 5]
    assert rows["id"] == ids
    assert rows["strangest_1"][3:] == ["age: 2 (expected 0)", "age: -4 (expected 0)"]
    assert rows["discovery"] == [True, False, True, True, True]
    shown = errors.replace("\u2502", " ").split()
    assert [word for word in shown if word in ids] == [ids[2], ids[4], ids[3], ids[0]]  # None is cut off.
    assert "\u2026" not in errors
    assert "4 of 5 rows are called anomalous at a false-discovery rate of 0.5" in errors
    status, errors = bulk(*asked, "0.5")
    assert status == 1
    assert "scores.csv: exists already" in errors
    status, errors = bulk(*asked[:2], str(tmp_path / "scores.xlsx"))
    assert status == 1
    assert "scores.xlsx: is no folder, and files are written as .csv or .parquet" in errors
    parquet = tmp_path / "scores.parquet"
    status, errors = bulk(explaining_table, tmp_path / "rows.csv", parquet, "--fdr", "0.001")
    assert status == 0, errors
    assert "with 99 held-out rows no p-value is below 0.01; at q = 0.001 no row can be called" in errors
    assert not any(pyarrow.parquet.read_table(parquet)["discovery"].to_pylist())


def test_a_file_that_is_cut_off_ends_the_run_and_leaves_nothing_half(tmp_path: Path, pixels: Array) -> None:
    np.save(tmp_path / "x.npy", pixels)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-100])
    status, errors = bulk(DIGITS, tmp_path / "x.npy", tmp_path / "out")
    assert status == 1
    assert "x.npy: cut off in row 998" in errors
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["_request.json"]


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        ("absent", [], "absent: cannot be read: No such file"),
        (DIGITS, [], "absent.npy: no such file or folder"),
        (DIGITS, ["--refine", "-1"], "error: refine: Input should be greater than or equal to 0"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    tmp_path: Path, model: Path | str, flags: list[str], message: str
) -> None:
    status, errors = bulk(tmp_path / model, tmp_path / "absent.npy", tmp_path / "out", *flags)
    assert status == 1
    assert message in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flag", ["--engine-threads=0", "--engine-threads=-1", "--engine-threads=1025", "--max-batch=0"]
)
def test_sizes_that_are_none_are_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["score", str(DIGITS), "x.npy", "out", flag])
    assert "a whole number from 1 to " in capsys.readouterr().err


@pytest.mark.parametrize("output", ["out", "out.csv", "out.parquet"])
def test_inputs_without_rows_are_refused_and_nothing_is_written(tmp_path: Path, output: str) -> None:
    np.save(tmp_path / "x.npy", np.empty((0, 8, 8), np.uint8))
    status, errors = bulk(DIGITS, tmp_path / "x.npy", tmp_path / output)
    assert (status, errors) == (1, f"error: {tmp_path / 'x.npy'}: no rows to score; nothing is written\n")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, pixels: Array) -> None:
    np.save(tmp_path / "x.npy", pixels)
    assert bulk(DIGITS, tmp_path / "x.npy", tmp_path / "out")[0] == 0
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    status, errors = bulk(DIGITS, tmp_path / "x.npy", tmp_path / "out")
    assert (status, errors) == (0, f"{tmp_path / 'out'}: 1,000 rows, all there\n")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
