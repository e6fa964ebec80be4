"""Answers appear in whole parts, in order, and a run goes on where another stopped."""

import resource
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from fsspec.implementations.local import LocalFileSystem

from service.bulk import writer
from service.bulk.one_file import write_file
from service.bulk.writer import PartWriter
from service.errors import FileError

REQUEST: dict[str, Any] = {"bundle": "abc", "parameters": {"seed": 7}, "inputs": [{"path": "a.npy", "rows": 10}]}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PART_ROWS", 4)


def batch(*values: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"score": np.array(values, np.float64)})


def scores(folder: Path) -> list[float]:
    return [] if not any(folder.glob("part-*")) else pyarrow.parquet.read_table(folder)["score"].to_pylist()


def test_parts_appear_when_they_are_whole(tmp_path: Path) -> None:
    out = PartWriter(str(tmp_path / "out"), REQUEST)
    assert (out.rows, out.done) == (0, False)
    out.add(batch(0, 1, 2))
    assert scores(tmp_path / "out") == []
    out.add(batch(3, 4, 5))
    assert scores(tmp_path / "out") == [0, 1, 2, 3, 4, 5]
    out.add(batch(6))
    out.finish()
    assert scores(tmp_path / "out") == [0, 1, 2, 3, 4, 5, 6]
    again = PartWriter(str(tmp_path / "out"), REQUEST)
    assert (again.rows, again.done) == (7, True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "_done",
        "_request.json",
        "part-000000.parquet",
        "part-000001.parquet",
    ]


def test_a_column_without_values_may_have_some_later(tmp_path: Path) -> None:
    out = PartWriter(str(tmp_path / "out"), REQUEST)
    for note in (None, "late", 7):
        out.add(pa.RecordBatch.from_pydict({"note": pa.array([note])}))
    out.finish()
    assert pyarrow.parquet.read_table(tmp_path / "out")["note"].to_pylist() == [None, "late", "7"]


@pytest.mark.parametrize("kind", ["killed", "interrupted"])
def test_what_was_not_whole_is_made_again(tmp_path: Path, kind: str) -> None:
    first = PartWriter(str(tmp_path), REQUEST)
    first.add(batch(0, 1, 2, 3))
    first.add(batch(4))
    if kind == "interrupted":
        first.abandon()
        assert not (tmp_path / ".part-000001.parquet").exists()
    second = PartWriter(str(tmp_path), REQUEST)
    assert (second.rows, second.done) == (4, False)
    second.add(batch(4, 5))
    second.finish()
    assert scores(tmp_path) == [0, 1, 2, 3, 4, 5]
    assert not list(tmp_path.glob(".part-*"))


def test_what_the_machine_left_half_written_is_made_again(tmp_path: Path) -> None:
    first = PartWriter(str(tmp_path), REQUEST)
    for start in range(0, 12, 4):
        first.add(batch(*range(start, start + 4)))
    (tmp_path / "part-000001.parquet").write_bytes(b"PAR1")
    second = PartWriter(str(tmp_path), REQUEST)
    assert second.rows == 4
    assert scores(tmp_path) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bundle": "xyz"}, "was begun with bundle 'abc', not 'xyz'"),
        ({"parameters": {"seed": 8}}, "was begun with parameters {'seed': 7}, not {'seed': 8}"),
        ({"inputs": []}, "was begun with inputs"),
    ],
)
def test_another_request_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    PartWriter(str(tmp_path), REQUEST).add(batch(0, 1, 2, 3))
    with pytest.raises(FileError, match=message):
        PartWriter(str(tmp_path), REQUEST | changes)
    assert scores(tmp_path) == [0, 1, 2, 3]


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileError, match="has other files in it"):
        PartWriter(str(tmp_path), REQUEST)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file/out: cannot be written"):
        PartWriter(str(tmp_path / "file" / "out"), REQUEST)


def test_a_run_goes_on_when_the_disk_has_room_again(tmp_path: Path) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
    try:
        with pytest.raises(FileError, match=r"cannot be written: .*File too large"):
            PartWriter(str(tmp_path), REQUEST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    PartWriter(str(tmp_path), REQUEST).add(batch(0, 1, 2, 3))
    assert scores(tmp_path) == [0, 1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["_request.json", "part-000000.parquet"]


def test_addresses_of_other_file_systems_are_written() -> None:
    out = PartWriter("memory://lake/scores", REQUEST)
    out.add(batch(0, 1, 2, 3, 4))
    out.finish()
    with fsspec.open("memory://lake/scores/part-000000.parquet", "rb") as file:
        assert pyarrow.parquet.read_table(file)["score"].to_pylist() == [0, 1, 2, 3, 4]
    assert PartWriter("memory://lake/scores", REQUEST).done


def test_problems_are_counted_by_a_run_that_goes_on(tmp_path: Path) -> None:
    problems = pa.array([None, "far", None, "far"], pa.string())
    rows = pa.RecordBatch.from_pydict({"score": np.zeros(4), "problem": problems})
    first = PartWriter(str(tmp_path), REQUEST)
    first.add(rows)
    second = PartWriter(str(tmp_path), REQUEST)
    assert (first.problems, second.problems) == (2, 2)
    second.add(rows)
    assert (second.rows, second.problems) == (8, 4)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_parts_stay_until_the_one_file_of_them_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    out = PartWriter(str(tmp_path / "parts"), REQUEST)
    out.add(batch(0, 1, 2, 3, 4))
    out.finish()
    target = tmp_path / f"scores.{suffix}"
    with monkeypatch.context() as broken:
        broken.setattr(LocalFileSystem, "mv", full)
        with pytest.raises(FileError, match=rf"scores\.{suffix}: cannot be written: no space left"):
            write_file(out, str(target))
    assert not target.exists()
    write_file(PartWriter(str(tmp_path / "parts"), REQUEST), str(target))
    read = pyarrow.csv.read_csv if suffix == "csv" else pyarrow.parquet.read_table
    assert read(target)["score"].to_pylist() == [0, 1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
