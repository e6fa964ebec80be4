"""Files of rows are read from any row on, and say where they are wrong."""

import gzip
import io
import itertools
import os
import struct
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image

from service.bulk.readers import open_inputs, read_from
from service.bundle import Array, CategoricalColumn, ImageInput, NumericColumn, TabularInput
from service.errors import FileError
from service.readers.files import find_files

ROWS = 100
IMAGES = ImageInput(shape=(4, 3), dtype="uint8", low=0, high=16)
TABLE = TabularInput(
    columns=(NumericColumn(name="age"), CategoricalColumn(name="colour", categories=("red", "blue"))),
)
CELLS = np.column_stack([np.linspace(-1, 1, ROWS), np.arange(ROWS) % 2])
CELLS[3, 0] = CELLS[5, 1] = np.nan
PIXELS = np.random.default_rng(0).integers(0, 17, (ROWS, 4, 3), dtype=np.uint8)


def as_columns() -> pa.Table:
    ages = pa.array([None if np.isnan(age) else age for age in CELLS[:, 0]])
    colours = pa.array([None if np.isnan(code) else ("red", "blue")[int(code)] for code in CELLS[:, 1]])
    return pa.table({"id": pa.array(range(ROWS)), "colour": colours, "age": ages})


def write_text(path: Path) -> None:
    pyarrow.csv.write_csv(as_columns(), path)


def write_gzip(path: Path) -> None:
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(as_columns(), buffer, pyarrow.csv.WriteOptions(delimiter="\t"))
    path.write_bytes(gzip.compress(buffer.getvalue()))


def write_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(as_columns(), path, row_group_size=17)


def write_tensors(path: Path) -> None:
    pixels = pa.FixedShapeTensorArray.from_numpy_ndarray(PIXELS)
    pyarrow.parquet.write_table(pa.table({"instances": pixels}), path, row_group_size=17)


def write_cells(path: Path) -> None:
    np.save(path, CELLS)


def write_pixels(path: Path) -> None:
    np.save(path, PIXELS.astype(">i4"))


def write_pictures(path: Path) -> None:
    path.mkdir()
    for i, pixels in enumerate(PIXELS):
        levels = Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8))
        levels.save(path / (f"{i:03d}.png" if i % 2 else f"{i:03d}"), "PNG" if i % 3 else "TIFF")
    (path / ".hidden").touch()
    (path / "notes.txt").touch()


def write_idx(path: Path) -> None:
    levels = np.round(PIXELS * (255 / 16)).astype(np.uint8)
    idx = bytes([0, 0, 8, 3]) + struct.pack(">3I", *levels.shape) + levels.tobytes()
    path.write_bytes(gzip.compress(idx) if path.suffix == ".gz" else idx)


def write_npz(path: Path) -> None:
    np.savez_compressed(path, X=PIXELS, y=np.zeros(ROWS))


def write_fortran(path: Path) -> None:
    np.save(path, np.asfortranarray(CELLS))


KINDS = [
    ("rows.csv", write_text, TABLE, CELLS),
    ("rows.tsv.gz", write_gzip, TABLE, CELLS),
    ("rows.parquet", write_parquet, TABLE, CELLS),
    ("rows.npy", write_cells, TABLE, CELLS),
    ("pixels.parquet", write_tensors, IMAGES, PIXELS),
    ("pixels.npy", write_pixels, IMAGES, PIXELS),
    ("pictures", write_pictures, IMAGES, PIXELS),
    ("train-images-idx3-ubyte", write_idx, IMAGES, PIXELS),
    ("train-images-idx3-ubyte.gz", write_idx, IMAGES, PIXELS),
    ("pixels.npz", write_npz, IMAGES, PIXELS),
    ("fortran.npy", write_fortran, TABLE, CELLS),
]


@pytest.mark.parametrize(("name", "write", "data", "expected"), KINDS)
def test_rows_are_read_from_any_on(
    tmp_path: Path, name: str, write: Callable[[Path], None], data: ImageInput | TabularInput, expected: Array
) -> None:
    path = tmp_path / name
    write(path)
    (source,) = open_inputs([str(path)], data)
    assert source.count() == ROWS
    for start, rows in itertools.product((0, 1, 16, 17, 50, 99, 100), (1, 30, 1000)):
        batches = list(source.read(start, rows))
        assert all(0 < len(batch.x) <= rows for batch in batches)
        read = np.concatenate([batch.x for batch in batches]) if batches else expected[:0]
        np.testing.assert_array_equal(read, expected[start:])
        assert read.dtype == (data.dtype if isinstance(data, ImageInput) else np.float64)


def test_pictures_are_named_as_their_folder_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)
    for path, prefix in ((tmp_path / "pictures", tmp_path / "pictures"), ("pictures/", Path("pictures"))):
        (source,) = open_inputs([str(path)], IMAGES)
        names = [name for batch in source.read(95, 2) for name in batch.names or []]
        assert names == [str(prefix / name) for name in ("095.png", "096", "097.png", "098", "099.png")]


def test_parts_are_named_as_their_folder_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("kind=x/1.csv", "kind=y/2.csv"):
        path = tmp_path / "rows" / part
        path.parent.mkdir(parents=True)
        write_text(path)
    monkeypatch.chdir(tmp_path)
    for given in ("rows", "./rows/", "rows/*/*.csv"):
        assert find_files(given) == ["rows/kind=x/1.csv", "rows/kind=y/2.csv"]
    assert find_files(str(tmp_path / "rows"))[0] == f"{tmp_path}/rows/kind=x/1.csv"


def test_files_follow_one_another(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write_text(folder / "b.csv")
    write_parquet(folder / "a.parquet")
    write_cells(tmp_path / "c.npy")
    inputs = open_inputs([str(folder), str(tmp_path / "c.npy")], TABLE)
    assert [Path(source.path).name for source in inputs] == ["a.parquet", "b.csv", "c.npy"]
    whole = np.concatenate([CELLS] * 3)
    for start in (0, 99, 100, 150, 250, 300):
        batches = [batch.x for batch in read_from(inputs, start, 64)]
        np.testing.assert_array_equal(np.concatenate([whole[:0], *batches]), whole[start:])


def test_addresses_of_other_file_systems_are_read() -> None:
    with fsspec.open("memory://lake/day/rows.npy", "wb") as file:
        np.save(file, CELLS)
    for path in ("memory://lake/day/rows.npy", "memory://lake/day"):
        (source,) = open_inputs([path], TABLE)
        np.testing.assert_array_equal(np.concatenate([batch.x for batch in source.read(10, 7)]), CELLS[10:])


def test_quoted_cells_may_have_line_breaks_and_commas(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('\ufeff"note"," age ","colour"\n"a\nb, c",1,red\n"""",2,"blue"\n')
    (source,) = open_inputs([str(path)], TABLE)
    assert source.count() == 2
    (batch,) = source.read(0, 10)
    assert batch.x.tolist() == [[1, 0], [2, 1]]


def wrong(path: Path, data: ImageInput | TabularInput) -> str:
    def read() -> None:
        for source in open_inputs([str(path)], data):
            source.count()
            list(source.read(0, 30))

    with pytest.raises(FileError) as caught:
        read()
    assert str(caught.value).startswith(f"{path}")
    return str(caught.value).removeprefix(f"{path}")


def marked(path: Path, data: ImageInput | TabularInput) -> list[str]:
    """The problems of rows, with their place."""
    return [
        batch.in_file(str(error))
        for source in open_inputs([str(path)], data)
        for batch in source.read(0, 30)
        for error in [*batch.marks.unreadable.values(), *(errors[0] for errors in batch.marks.unseen.values())]
    ]


def test_what_is_wrong_with_rows_is_marked(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("age,colour\n" + 40 * "1,red\n" + "x,red\n2,green\n")
    assert marked(path, TABLE) == [
        f"{path}: row 41.age: 'x' is not a number",
        f"{path}: row 42.colour: 'green' is not a known category; known are 'red', 'blue'",
    ]
    path.write_text("a title\n\nage,colour\n0\n1,red\n\n2,red,3\n   \n3,x\n4,red\n5\n6\n")
    batches = list(read_from(open_inputs([str(path)], TABLE), 1, 9))
    x = np.concatenate([batch.x for batch in batches])
    np.testing.assert_array_equal(x[[0, 2, 3]], [[1, 0], [3, np.nan], [4, 0]])
    assert [batch.in_file(str(error)) for batch in batches for error in batch.marks.unreadable.values()] == [
        f"{path}: row {row}: line {line} has {cells}; the header has 2, divided by ','"
        for row, line, cells in ((3, 7, "3 cells"), (6, 11, "1 cell"), (7, 12, "1 cell"))
    ]
    assert [source.count() for source in open_inputs([str(path)], TABLE)] == [7]
    path = tmp_path / "bright.npy"
    np.save(path, np.where(np.arange(ROWS)[:, None, None] == 57, 17, PIXELS))
    assert marked(path, IMAGES) == [f"{path}: row 58[0][0]: 17 is outside [0, 16]"]
    write_pictures(tmp_path / "pictures")
    Image.fromarray(PIXELS[0, :2]).save(tmp_path / "pictures" / "051.png")
    (tmp_path / "pictures" / "053.png").write_bytes((tmp_path / "pictures" / "001.png").read_bytes()[:40])
    (tmp_path / "pictures" / "055.png").write_bytes(b"")
    problems = marked(tmp_path / "pictures", IMAGES)
    for problem, start in zip(problems, ("has 2 × 3 pixels", "is damaged: ", "is empty"), strict=True):
        number = 51 + 2 * problems.index(problem)
        assert problem.startswith(f"{tmp_path}/pictures/{number:03}.png: {start}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("age\n1\n", ": no columns are named 'colour'; there are age"),
        ("age,colour,age\n1,red,2\n", ": 2 columns are named 'age'"),
        ('age,colour\n1,red\n2,"red\n', ", line 3: a quotation mark that begins a cell is never closed"),
        ("", ": empty"),
    ],
)
def test_what_is_wrong_in_a_text_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    assert problem in wrong(path, TABLE)


def test_what_is_wrong_in_other_files_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((3, 5)))
    assert wrong(tmp_path / "wide.npy", TABLE).startswith(": row 1: must have 2 values, not 5")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    assert "must hold an array of numbers, not object" in wrong(tmp_path / "objects.npy", TABLE)
    write_cells(tmp_path / "cut.npy")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-20])
    assert "cut off in row 98" in wrong(tmp_path / "cut.npy", TABLE)
    (tmp_path / "none.parquet").write_bytes(b"PAR1 and no more")
    assert "cannot be read" in wrong(tmp_path / "none.parquet", TABLE)
    pyarrow.parquet.write_table(pa.table({"instances": pa.array([[1], [1, 2]])}), tmp_path / "ragged.parquet")
    assert "must be fixed-size lists of numbers" in wrong(tmp_path / "ragged.parquet", IMAGES)
    write_pictures(tmp_path / "pictures")
    assert "rows of a table" in wrong(tmp_path / "pictures", TABLE)


def test_what_cannot_be_read_is_refused_before_anything_is(tmp_path: Path) -> None:
    (tmp_path / "rows.doc").touch()
    assert ": is no picture or IDX file, and its name ends in none of .npy" in wrong(tmp_path / "rows.doc", IMAGES)
    assert wrong(tmp_path / "rows.doc", TABLE) == ": empty"
    (tmp_path / "rows.xlsx").write_bytes(b"PK\3\4")
    assert wrong(tmp_path / "rows.xlsx", TABLE).startswith(": a spreadsheet or an archive; save it as CSV or Parquet")
    (tmp_path / "rows.doc").write_text("a table among others")
    several = "rows.doc: is no picture or IDX file, and its name ends in none of .*; move it away"
    with pytest.raises(FileError, match=several):
        open_inputs([str(tmp_path)], TABLE)
    (tmp_path / "rows.gz").write_bytes(gzip.compress(b"age")[:10] + b"\xff" * 9)
    assert wrong(tmp_path / "rows.gz", IMAGES).startswith(": cannot be read")
    assert wrong(tmp_path / "absent.npy", TABLE) == ": no such file or folder"
    (tmp_path / "empty").mkdir()
    assert wrong(tmp_path / "empty", TABLE) == ": no files there"
    with pytest.raises(FileError, match=r"^nosuch://x/rows.npy: cannot be read: Protocol not known: nosuch"):
        open_inputs(["nosuch://x/rows.npy"], TABLE)


@pytest.mark.parametrize("data", [TABLE, IMAGES], ids=["table", "pictures"])
@pytest.mark.parametrize("place", ["", "*.csv", "pipe.csv", "zero.png"])
def test_what_may_have_no_end_is_refused(tmp_path: Path, data: ImageInput | TabularInput, place: str) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with pytest.raises(FileError, match=r"a pipe or a device|no such file or folder"):
        open_inputs([str(tmp_path / place)], data)


def test_a_pattern_names_files(tmp_path: Path) -> None:
    for name in ("rows-2.csv", "rows-1.csv", "other.csv"):
        write_text(tmp_path / name)
    assert [source.path for source in open_inputs([str(tmp_path / "rows-*.csv")], TABLE)] == [
        str(tmp_path / "rows-1.csv"),
        str(tmp_path / "rows-2.csv"),
    ]


def test_files_beside_pictures_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pictures(tmp_path / "pictures")
    for name in ("a.csv", "train-labels-idx1-ubyte", "b.txt"):
        (tmp_path / "pictures" / name).write_bytes(b"\0\0\x08\1")
    (source,) = open_inputs([str(tmp_path / "pictures")], IMAGES)
    assert source.count() == ROWS
    (record,) = caplog.records
    assert "left out 4 of 104 files, which hold no pictures: a.csv, b.txt, notes.txt and 1 more" in record.getMessage()
    assert record.getMessage().endswith(" and 1 more")
