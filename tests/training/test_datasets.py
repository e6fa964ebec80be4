"""Every source reads what it should, refuses what it should by name, and splits leak nothing."""

import datetime as dt
import gzip
import hashlib
import math
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from service.manifest import CategoricalColumn, ImageInput, NumericColumn, TabularInput
from training.datasets import DATASETS, AnySource, DataError, Dataset, Source, SplitRecipe, Splits, aligned, split
from training.datasets.digits import Digits
from training.datasets.idx import Idx
from training.datasets.image_folder import ImageFolder
from training.datasets.numpy_arrays import NumpyArrays
from training.datasets.source import inexact
from training.datasets.table import Table, describe

PARTS = ("train", "validation", "calibration", "test")


def idx_bytes(array: npt.NDArray[Any], kind: int = 0x08) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def images(*shape: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def write_idx(folder: Path) -> Path:
    return write(folder / "images.idx", idx_bytes(images(20, 3, 4)))


def write_numpy(folder: Path) -> Path:
    np.save(folder / "rows.npy", images(20, 3))
    return folder / "rows.npy"


def write_folder(folder: Path) -> Path:
    for number, image in enumerate(images(20, 3, 4)):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return folder


def write_table(folder: Path) -> Path:
    return write(folder / "t.csv", "age,sex\n" + "".join(f"{n},{'mf'[n % 2]}\n" for n in range(20)))


FILES: dict[str, Callable[[Path], Path | None]] = {
    "digits": lambda _: None,
    "idx": write_idx,
    "numpy": write_numpy,
    "image_folder": write_folder,
    "table": write_table,
}


def source_of(kind: str, **options: Any) -> Source:
    """Make a source as a recipe states it."""
    return TypeAdapter[Source](AnySource).validate_python({"kind": kind, **options})


def message(source: Source, path: Path | None) -> str:
    with pytest.raises(DataError) as caught:
        source.load(path)
    return str(caught.value)


def refused(path: Path, content: str | bytes, **options: Any) -> str:
    return message(Table(**options), write(path, content))


def columns(dataset: Dataset) -> dict[str, NumericColumn | CategoricalColumn]:
    assert isinstance(dataset.input, TabularInput)
    return {column.name: column for column in dataset.input.columns}


def categories(dataset: Dataset, name: str) -> tuple[Any, ...]:
    column = columns(dataset)[name]
    assert isinstance(column, CategoricalColumn)
    return column.categories


# Every source


@pytest.mark.parametrize("kind", DATASETS)
def test_rows_agree_with_the_schema(kind: str, tmp_path: Path) -> None:
    source = source_of(kind)
    assert type(source) is DATASETS[kind]
    dataset = source.load(FILES[kind](tmp_path))
    assert len(dataset.rows) >= 20
    assert dataset.rows.shape[1:] == dataset.input.shape
    assert dataset.rows.dtype == dataset.input.dtype
    if isinstance(dataset.input, ImageInput):
        assert dataset.input.low <= dataset.rows.min() <= dataset.rows.max() <= dataset.input.high


@pytest.mark.parametrize("kind", DATASETS)
def test_loading_twice_gives_one_fingerprint(kind: str, tmp_path: Path) -> None:
    path = FILES[kind](tmp_path)
    first, second = (source_of(kind).load(path) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert len(bytes.fromhex(first.fingerprint)) == 32


@pytest.mark.parametrize("kind", DATASETS)
def test_absent_files_are_named(kind: str, tmp_path: Path) -> None:
    assert str(tmp_path / "absent.csv") in message(source_of(kind), tmp_path / "absent.csv")
    if kind != "digits":
        assert "needs a path" in message(source_of(kind), None)


@pytest.mark.parametrize("kind", DATASETS)
def test_unknown_options_are_refused(kind: str) -> None:
    with pytest.raises(ValidationError, match="colour"):
        source_of(kind, colour="red")


@pytest.mark.parametrize("kind", [kind for kind in DATASETS if kind not in ("digits", "image_folder")])
def test_damaged_files_raise_nothing_but_data_errors(kind: str, tmp_path: Path) -> None:
    path = FILES[kind](tmp_path)
    assert path is not None
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(150):
        damaged = bytearray(whole)
        damaged[rng.integers(min(len(whole), 140))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged if trial % 2 else damaged[: rng.integers(len(whole))])
        try:
            source_of(kind).load(path)
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017


def test_the_package_does_not_import_torch() -> None:
    code = "import sys, training.datasets; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_fingerprint_depends_on_schema_shape_and_values() -> None:
    rows = np.zeros((4, 2, 6), np.uint8)
    changed = rows.copy()
    changed[3, 1, 5] = 1
    schema = ImageInput(shape=(2, 6), dtype="uint8", low=0, high=255)
    variants = [
        Dataset(schema, rows),
        Dataset(schema, changed),
        Dataset(ImageInput(shape=(2, 6), dtype="uint8", low=0, high=16), rows),
        Dataset(ImageInput(shape=(3, 4), dtype="uint8", low=0, high=255), rows.reshape(4, 3, 4)),
        Dataset(schema, rows[:3]),
    ]
    assert len({dataset.fingerprint for dataset in variants}) == len(variants)
    assert Dataset(schema, np.asfortranarray(changed)).fingerprint == variants[1].fingerprint


@given(st.integers(-(2**63), 2**64 - 1))
def test_inexact_agrees_with_python(number: int) -> None:
    array = np.array([number], np.int64 if number < 2**63 else np.uint64)
    assert inexact(array)[0] == (int(float(number)) != number)


# digits


def test_digits() -> None:
    dataset = Digits().load(None)
    assert dataset.rows.shape == (1797, 8, 8)
    assert dataset.rows.max() == dataset.input.high == 16  # type: ignore[union-attr]


# idx


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_folder_with_official_test_set(end: str, tmp_path: Path) -> None:
    train, test = images(6, 4, 5), images(3, 4, 5, seed=1)
    pack = gzip.compress if end else bytes
    write(tmp_path / f"train-images-idx3-ubyte{end}", pack(idx_bytes(train)))
    assert Idx().load(tmp_path).num_test == 0
    write(tmp_path / f"t10k-images-idx3-ubyte{end}", pack(idx_bytes(test)))
    dataset = Idx().load(tmp_path)
    assert dataset.num_test == 3
    np.testing.assert_array_equal(dataset.rows, np.concatenate([train, test]))
    assert dataset.input == ImageInput(shape=(4, 5), dtype="uint8", low=0, high=255)


def test_idx_binarized(tmp_path: Path) -> None:
    train, test = images(30, 6, 5), images(8, 6, 5, seed=1)
    write(tmp_path / "train-images-idx3-ubyte", idx_bytes(train))
    write(tmp_path / "t10k-images-idx3-ubyte", idx_bytes(test))
    dataset = Idx(binarize="dynamic").load(tmp_path)
    assert dataset.input == ImageInput(shape=(6, 5), dtype="uint8", low=0, high=1)
    assert dataset.levels is not None
    np.testing.assert_array_equal(dataset.levels, np.concatenate([train, test]))
    # The protocol of the published figures, in its authors' words.
    np.random.seed(777)  # noqa: NPY002
    np.testing.assert_array_equal(dataset.rows[30:], np.random.binomial(1, test / 255.0))  # noqa: NPY002
    assert dataset.num_test == 8
    assert Idx().load(tmp_path).levels is None


def test_idx_in_colour(tmp_path: Path) -> None:
    dataset = Idx().load(write(tmp_path / "x", idx_bytes(images(2, 4, 5, 3))))
    assert dataset.input.shape == (4, 5, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "begins with nothing"),
        (b"\x89PNG", "begins with 89 50 4e 47"),
        (idx_bytes(images(2, 4, 5), kind=0x0D), "type 0x0d"),
        (idx_bytes(images(2, 4, 5))[:9], "truncated within its header: 9 bytes of 16"),
        (idx_bytes(images(2, 4, 5))[:-1], "truncated: 39 of the 40 values of shape (2, 4, 5)"),
        (idx_bytes(images(2, 4, 5)) + b"!!", "2 trailing bytes"),
        (idx_bytes(images(7)), "shape (7,)"),
        (idx_bytes(images(0, 4, 5)), "shape (0, 4, 5)"),
        (idx_bytes(images(2, 4, 5, 2)), "2 channels"),
        (gzip.compress(idx_bytes(images(2, 4, 5)))[:-9], "cannot be read: Compressed file ended"),
    ],
)
def test_bad_idx(content: bytes, reason: str, tmp_path: Path) -> None:
    text = message(Idx(), write(tmp_path / "bad.idx", content))
    assert "bad.idx" in text
    assert reason in text


def test_bad_idx_folders(tmp_path: Path) -> None:
    assert "train-images-idx3-ubyte" in message(Idx(), tmp_path)
    write(tmp_path / "train-images-idx3-ubyte", idx_bytes(images(2, 4, 5)))
    write(tmp_path / "t10k-images-idx3-ubyte", idx_bytes(images(2, 5, 5)))
    text = message(Idx(), tmp_path)
    assert "t10k-images-idx3-ubyte" in text
    assert "(5, 5)" in text


# numpy


def save(path: Path, array: Any) -> Path:
    np.save(path, array, allow_pickle=True)
    return path


def test_numpy_table(tmp_path: Path) -> None:
    array = np.array([[1, -np.nan], [3, 4]], np.float32)
    dataset = NumpyArrays().load(save(tmp_path / "x.npy", array))
    assert list(columns(dataset).values()) == [NumericColumn(name="x0"), NumericColumn(name="x1")]
    assert dataset.rows.tobytes() == np.array([[1, np.nan], [3, 4]]).tobytes()


@pytest.mark.parametrize(
    ("array", "dtype", "high"),
    [
        (images(3, 4, 5), "uint8", 255),
        (images(3, 4, 5, 3).astype(np.int64), "uint8", 255),
        (images(3, 4, 5, 1) > 99, "uint8", 1),
        (images(3, 4, 5) / 255, "float32", 1),
        (np.asfortranarray(images(3, 4, 5) / np.float16(256)), "float32", 1),
    ],
)
def test_numpy_images(array: npt.NDArray[Any], dtype: str, high: float, tmp_path: Path) -> None:
    dataset = NumpyArrays().load(save(tmp_path / "x.npy", array))
    assert dataset.input == ImageInput.model_validate(
        {"shape": array.shape[1:], "dtype": dtype, "low": 0, "high": high}
    )
    np.testing.assert_array_equal(dataset.rows, array.astype(dtype))


@pytest.mark.parametrize("names", [("X", "y"), ("x", "y"), ("anything",)])
def test_npz_chooses_its_array(names: tuple[str, ...], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{name: np.full((2, 2), i) for i, name in enumerate(names)})  # type: ignore[arg-type]
    assert NumpyArrays().load(tmp_path / "a.npz").rows.max() == 0


def test_bad_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", left=np.zeros((2, 2)), right=np.zeros((2, 2)))
    assert "left, right" in message(NumpyArrays(), tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", X=np.array([[{}]]))
    assert "b.npz" in message(NumpyArrays(), tmp_path / "b.npz")
    assert "c.npz: cannot be read" in message(
        NumpyArrays(), write(tmp_path / "c.npz", (tmp_path / "a.npz").read_bytes()[:99])
    )


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        ([[1.0, 2.0], [np.inf, 3.0]], "[1, 0] = inf is infinite"),
        ([[1, 2], [3, 2**53 + 1]], "[1, 1] = 9007199254740993"),
        ([[np.nan, 1], [np.nan, 2]], "column 0"),
        (np.full((1, 2, 2), 300), "[0, 0, 0] = 300 is not a level"),
        (np.array([[[0.5, np.nan]]]), "[0, 0, 1] = nan is not in [0, 1]"),
        (np.array([[[0.5, -0.1]]]), "[0, 0, 1] = -0.1 is not in [0, 1]"),
        (np.zeros((2, 3, 32, 32)), "32 channels; channels come last"),
        (np.zeros(5), "shape (5,)"),
        (np.zeros((0, 5)), "shape (0, 5) holds nothing"),
        (np.zeros((2, 2), complex), "complex128"),
        (np.array([["a"]]), "<U1"),
        (np.array([[None]]), "cannot be read: Object arrays"),
    ],
)
def test_bad_arrays(array: Any, reason: str, tmp_path: Path) -> None:
    text = message(NumpyArrays(), save(tmp_path / "bad.npy", array))
    assert "bad.npy" in text
    assert reason in text


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"not an array"])
def test_bad_npy(content: bytes, tmp_path: Path) -> None:
    assert "bad.npy: cannot be read" in message(NumpyArrays(), write(tmp_path / "bad.npy", content))


def test_npy_ends_where_it_says(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", np.zeros((9, 9)))
    whole = path.read_bytes()
    assert "x.npy: cannot be read" in message(NumpyArrays(), write(path, whole[:-1]))
    assert "trailing bytes" in message(NumpyArrays(), write(path, whole + b"!"))
    assert "x.txt: neither .npy nor .npz" in message(NumpyArrays(), write(tmp_path / "x.txt", whole))


# image_folder


def test_image_folder_reads_recursively_in_order(tmp_path: Path) -> None:
    pixels = images(3, 4, 5, 3)
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for image, name in zip(pixels, ["a.PNG", "b/a.png", "c.png"], strict=True):
        Image.fromarray(image).save(tmp_path / name)
    write(tmp_path / "notes.txt", "not an image")
    write(tmp_path / "._a.png", "not an image")
    write(tmp_path / ".hidden" / "a.png", "not an image")
    dataset = ImageFolder().load(tmp_path)
    np.testing.assert_array_equal(dataset.rows, pixels)
    assert dataset.input == ImageInput(shape=(4, 5, 3), dtype="uint8", low=0, high=255)


def test_image_folder_accepts_opaque_alpha_palettes_and_bits(tmp_path: Path) -> None:
    colour = Image.fromarray(images(4, 5, 3)).quantize(16)
    for name, image in {"a": colour.convert("RGBA"), "b": colour, "c": colour.convert("RGB")}.items():
        image.save(tmp_path / f"{name}.png")
    rows = ImageFolder().load(tmp_path).rows
    assert (rows == rows[0]).all()
    (tmp_path / "bits").mkdir()
    Image.new("1", (5, 4), 1).save(tmp_path / "bits" / "a.png")
    Image.new("LA", (5, 4), (255, 255)).save(tmp_path / "bits" / "b.png")
    assert (ImageFolder().load(tmp_path / "bits").rows == 255).all()


def test_image_folder_options_make_all_alike(tmp_path: Path) -> None:
    Image.new("RGB", (9, 7), (90, 90, 90)).save(tmp_path / "a.jpeg")
    Image.new("L", (4, 4), 90).save(tmp_path / "b.png")
    source = ImageFolder(size=(2, 3), color="gray")
    assert source.load(tmp_path).rows.shape == (2, 2, 3)
    assert (ImageFolder(size=(2, 3), color="rgb").load(tmp_path).rows == np.full((2, 2, 3, 3), 90)).all()
    checkerboard = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    (tmp_path / "fine").mkdir()
    Image.fromarray(checkerboard.astype(np.uint8)).save(tmp_path / "fine" / "a.png")
    assert np.ptp(ImageFolder(size=(8, 8)).load(tmp_path / "fine").rows) < 16


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("L", (5, 6)), "6 × 5 grey, but"),
        (Image.new("RGB", (5, 4)), "4 × 5 RGB, but"),
        (Image.new("LA", (5, 4), (9, 254)), "transparent"),
        (Image.new("RGBA", (5, 4), (9, 9, 9, 0)), "transparent"),
        (Image.new("I;16", (5, 4)), "mode I;16"),
    ],
)
def test_odd_images_are_named(image: Image.Image, reason: str, tmp_path: Path) -> None:
    Image.new("L", (5, 4)).save(tmp_path / "a.png")
    image.save(tmp_path / "odd.png")
    text = message(ImageFolder(), tmp_path)
    assert "odd.png" in text
    assert reason in text


def test_colour_keys_are_transparent_too(tmp_path: Path) -> None:
    Image.new("L", (5, 4), 7).save(tmp_path / "key.png", transparency=7)
    assert "key.png: has transparent pixels" in message(ImageFolder(), tmp_path)


def test_broken_images_are_named(tmp_path: Path) -> None:
    assert f"{tmp_path}: holds no" in message(ImageFolder(), tmp_path)
    Image.fromarray(images(40, 50)).save(tmp_path / "broken.png")
    whole = (tmp_path / "broken.png").read_bytes()
    write(tmp_path / "broken.png", whole[: len(whole) // 2])
    assert "broken.png: cannot be read" in message(ImageFolder(), tmp_path)
    write(tmp_path / "broken.png", b"")
    assert "broken.png: cannot be read" in message(ImageFolder(), tmp_path)


def test_many_images_show_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = write_folder(tmp_path).joinpath("00.png").read_bytes()
    for number in range(1000):
        write(tmp_path / f"x{number}.png", content)
    assert len(ImageFolder().load(tmp_path).rows) == 1020
    captured = capsys.readouterr()
    assert "Reading images" in captured.err
    assert not captured.out


# table

PEOPLE = """\
age, income,sex,member,smoker,rooms,born
31,1e3,f,True,0,1,x
,-2.5,m,FALSE,1,2,"a ""b"", c"
40,NA,?,True,,3,x
"""


@pytest.mark.parametrize("end", [".csv", ".csv.gz", ".tsv", ".CSV"])
def test_text_tables(end: str, tmp_path: Path) -> None:
    text = PEOPLE.replace('"a ""b"", c"', "a").replace(",", "\t") if "tsv" in end else PEOPLE
    raw = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    dataset = Table(columns={"rooms": "categorical"}).load(
        write(tmp_path / f"t{end}", gzip.compress(raw) if end.endswith("gz") else raw)
    )
    assert {column.type for column in columns(dataset).values()} == {"categorical"}
    assert list(columns(dataset)) == ["age", "income", "sex", "member", "smoker", "rooms", "born"]
    assert categories(dataset, "age") == (31, 40)
    assert categories(dataset, "income") == (-2.5, 1000.0)
    assert categories(dataset, "sex") == ("f", "m")
    assert categories(dataset, "member") == (False, True)
    assert [type(category) for category in categories(dataset, "member")] == [bool, bool]
    assert categories(dataset, "smoker") == (0, 1)
    assert categories(dataset, "rooms") == (1, 2, 3)
    expected = [[0, 1, 0, 1, 0, 0, 1], [np.nan, 0, 1, 0, 1, 1, 0], [1, np.nan, np.nan, 1, np.nan, 2, 1]]
    np.testing.assert_array_equal(dataset.rows, expected)


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    dataset = Table().load(write(tmp_path / "t.csv", "a,b\n1,+.5\n2,\n-3,2E-1\n,7.\n"))
    assert list(columns(dataset).values()) == [NumericColumn(name="a"), NumericColumn(name="b")]
    np.testing.assert_array_equal(dataset.rows, [[1, 0.5], [2, np.nan], [-3, 0.2], [np.nan, 7]])


def test_corrections_and_drops(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ",code,flag,zip\n0,1,0,02139\n1,2,1,2139\n2,3,1,10001\n")
    dataset = Table(drop=("",), columns={"code": "categorical", "flag": "numeric", "zip": "categorical"}).load(path)
    assert categories(dataset, "code") == (1, 2, 3)
    assert categories(dataset, "zip") == ("02139", "10001", "2139")
    assert columns(dataset)["flag"] == NumericColumn(name="flag")
    path = write(tmp_path / "t.csv", "id\n9007199254740993\n123456789012345678901\n7\n")
    assert categories(Table(columns={"id": "categorical"}).load(path), "id")[-2:] == ("7", "9007199254740993")


def test_missing_texts_can_be_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b\n-999,NA\n1,x\n2,y\n3,\n")
    dataset = Table(missing=("", "-999")).load(path)
    assert categories(dataset, "b") == ("NA", "x", "y")
    assert np.isnan(dataset.rows[[0, 3], [0, 1]]).all()


def test_parquet(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "t.parquet",
        number=pa.array([1.5, math.nan, None, -0.0, 2.5], pa.float32()),
        half=pa.array(np.arange(5, dtype=np.float16)),
        decimal=pa.array([1, 2, 3, None, 5], pa.decimal128(9, 2)),
        big=pa.array([2**60, 2, 3, 4, None]),
        unsigned=pa.array([1, 2, 3, 4, 2**63], pa.uint64()),
        flag=[True, None, False, True, True],
        text=pa.array(["2", "x", "?", None, " x"], pa.large_string()),
        level=pa.array(["10", "9", "10", None, "9"]).dictionary_encode(),
    )
    dataset = Table().load(path)
    assert [column.type for column in columns(dataset).values()] == ["numeric"] * 5 + ["categorical"] * 3
    assert categories(dataset, "flag") == (False, True)
    assert categories(dataset, "text") == (" x", "2", "x")
    assert categories(dataset, "level") == ("10", "9")
    np.testing.assert_array_equal(dataset.rows[:, 0], [1.5, np.nan, np.nan, 0, 2.5])
    np.testing.assert_array_equal(dataset.rows[:, 3], [2.0**60, 2, 3, 4, np.nan])
    assert not np.signbit(dataset.rows[3, 0])


def test_parquet_text_is_numeric_only_when_declared(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", a=["1", "2", "3.5"])
    assert categories(Table().load(path), "a") == ("1", "2", "3.5")
    np.testing.assert_array_equal(Table(columns={"a": "numeric"}).load(path).rows, [[1], [2], [3.5]])


def test_a_broken_number_is_named_with_its_line(tmp_path: Path) -> None:
    lines = ["note,age", '"one\ntwo",10', "", *(f"x,{n}" for n in range(30)), "x,l7", "x,18"]
    text = refused(tmp_path / "t.csv", "\n".join(lines))
    assert "t.csv, row 32 (line 35), column 'age': 'l7' is not a number, as most of the column is" in text
    text = refused(tmp_path / "t.csv", "a\n1\n2\nx\ny\n", columns={"a": "numeric"})
    assert "row 3 (line 4), column 'a': 'x' is not a number" in text
    dataset = Table(columns={"a": "categorical"}).load(write(tmp_path / "t.csv", "a\n0\n1\n2\n3+\n"))
    assert categories(dataset, "a") == ("0", "1", "2", "3+")
    path = write_parquet(tmp_path / "t.parquet", a=["1", "2", "3", "oops"])
    assert "t.parquet, row 4, column 'a': 'oops'" in message(Table(), path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "empty"),
        ("a,b\n", "no rows"),
        ("a,b\n1,2\n\n3\n4,5\n", "row 2 (line 4): 1 cells; the header has 2"),
        ("a,b\n1,2\n3,4,5\n", "row 2 (line 3): 3 cells; the header has 2"),
        ('a,b\n1,"2\n3,4\n5,6\n', "line 2: unexpected end of data"),
        (b"a,b\n1,2\n3,\xff\n", "row 2 (line 3): not UTF-8"),
        (b"a,\xff\n1,2\n", "header (line 1): not UTF-8"),
        ("a,b,a\n1,2,3\n", "2 columns are named 'a'"),
        ("a,,b\n1,2,3\n", "column 2 has no name"),
        ("a,b\n1,?\n2,NA\n", "column 'b': every cell is missing"),
        ("a\n1\n2\n-inf\n", "row 3 (line 4), column 'a': -inf is infinite"),
        ("a\n1\n2\n1e999\n", "row 3 (line 4), column 'a': inf is infinite"),
        ("a\n1\n2\n9007199254740993\n", "row 3 (line 4), column 'a': float64 cannot hold 9007199254740993"),
        ("a\n1\n2\n123456789012345678901\n", "row 3 (line 4), column 'a': float64 cannot hold 1234567890123456789"),
        ("a\n1.5\n2\n9007199254740993\n", "row 3 (line 4), column 'a': float64 cannot hold 9007199254740993"),
        ("a\n2020-01-02\n2020-01-03 10:00\n", "column 'a': dates"),
        ("a\n" + "".join(f"word{n}\n" for n in range(65)), "column 'a': 65 distinct texts"),
    ],
)
def test_bad_text_tables(content: str | bytes, reason: str, tmp_path: Path) -> None:
    text = refused(tmp_path / "t.csv", content)
    assert str(tmp_path / "t.csv") in text
    assert reason in text


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([dt.date(2020, 1, 1)]), "date32[day] is neither"),
        (pa.array([dt.datetime(2020, 1, 1, tzinfo=dt.UTC)]), "timestamp[us, tz=UTC] is neither"),
        (pa.array([[1, 2]]), "list<"),
        (pa.array([{"b": 1}]), "struct<"),
        (pa.array([b"x"]), "binary is neither"),
        (pa.nulls(1), "every cell is missing"),
        (pa.array([math.nan]), "every cell is missing"),
    ],
)
def test_bad_parquet_columns(column: pa.Array, reason: str, tmp_path: Path) -> None:
    text = message(Table(), write_parquet(tmp_path / "t.parquet", a=column))
    assert "t.parquet, column 'a'" in text
    assert reason in text


def test_bad_parquet_cells(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", a=[1.0, None, math.inf])
    assert "t.parquet, row 3, column 'a': inf is infinite" in message(Table(), path)
    path = write_parquet(tmp_path / "t.parquet", a=[1, None, 2, -(2**53) - 1])
    assert "row 4, column 'a': float64 cannot hold -9007199254740993" in message(Table(), path)
    assert len(categories(Table(columns={"a": "categorical"}).load(path), "a")) == 3
    assert "t.parquet: cannot be read" in message(Table(), write(path, path.read_bytes()[:-9]))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"drop": ("c",)}, "drop: no column 'c' among a, b"),
        ({"columns": {"c": "numeric"}}, "columns: no column 'c' among a, b"),
        ({"drop": ("a",), "columns": {"a": "numeric"}}, "columns: no column 'a' among b"),
        ({"drop": ("a", "b")}, "no column is left"),
    ],
)
def test_options_that_name_no_column(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    assert reason in refused(tmp_path / "t.csv", "a,b\n1,2\n", **options)


def test_other_bad_tables(tmp_path: Path) -> None:
    assert "t.xlsx: the name ends in none of" in refused(tmp_path / "t.xlsx", "a\n1\n")
    assert "t.csv.gz: cannot be read" in refused(tmp_path / "t.csv.gz", gzip.compress(b"a\n1\n2\n")[:-4])
    many = "a\n" + "".join(f"word{n}\n" for n in range(65))
    assert "max_categories (2)" in refused(tmp_path / "t.csv", "a\nx\ny\nz\n", max_categories=2)
    assert len(categories(Table(columns={"a": "categorical"}).load(write(tmp_path / "t.csv", many)), "a")) == 65


def test_describe(tmp_path: Path) -> None:
    content = "n,[bold]\n" + "".join(f"{n},k{n % 7}\n" for n in range(9)) + ",k1\n"
    console = Console(width=100)
    with console.capture() as capture:
        console.print(describe(Table().load(write(tmp_path / "t.csv", content))))
    _, number, category = (line.split("│") for line in capture.get().splitlines() if "│" in line or "┃" in line)
    assert [cell.strip() for cell in number[1:-1]] == ["n", "numeric", "0 … 8", "10.0%"]
    assert [cell.strip() for cell in category[1:-1]] == [
        "[bold]",
        "categorical",
        "k0, k1, k2, k3, k4, … (7 in all)",
        "",
    ]
    with pytest.raises(TypeError):
        describe(Digits().load(None))


# splits


def table(rows: npt.NDArray[np.float64], num_test: int = 0) -> Dataset:
    schema = TabularInput(columns=tuple(NumericColumn(name=f"x{i}") for i in range(rows.shape[1])))
    return Dataset(schema, rows, num_test)


def parts(splits: Splits) -> list[npt.NDArray[np.int64]]:
    return [getattr(splits, name) for name in PARTS]


@given(
    rows=hnp.arrays(
        np.float64, st.tuples(st.integers(4, 60), st.just(2)), elements=st.sampled_from([0.0, 1.0, np.nan])
    ),
    seed=st.integers(0, 2**32),
    fractions=st.tuples(*[st.floats(0.01, 0.33)] * 3),
)
def test_splits_partition_the_rows_and_keep_duplicates_together(
    rows: npt.NDArray[np.float64], seed: int, fractions: tuple[float, float, float]
) -> None:
    validation, calibration, test = fractions
    recipe = SplitRecipe(validation=validation, calibration=calibration, test=test, seed=seed)
    if len({row.tobytes() for row in rows}) < len(PARTS):
        with pytest.raises(DataError, match="distinct rows are too few for 4 parts"):
            split(table(rows), recipe)
        return
    splits = split(table(rows), recipe)
    assert sorted(np.concatenate(parts(splits)).tolist()) == list(range(len(rows)))
    contents = [{rows[i].tobytes() for i in part} for part in parts(splits)]
    assert sum(map(len, contents)) == len(set.union(*contents))
    for part, again in zip(parts(splits), parts(split(table(rows), recipe)), strict=True):
        assert part.dtype == np.int64
        assert part.size
        assert np.all(np.diff(part) > 0)
        np.testing.assert_array_equal(part, again)


def test_split_shares_and_seeds() -> None:
    dataset = table(np.arange(1000.0)[:, None])
    splits = split(dataset, SplitRecipe())
    assert [len(part) for part in parts(splits)] == [500, 100, 200, 200]
    other = split(dataset, SplitRecipe(seed=1))
    assert not np.array_equal(splits.train, other.train)
    # Neighbours in the file are no likelier to share a part than others.
    assert abs(splits.test.mean() - 500) < 100


def test_an_official_test_set_stays_whole() -> None:
    dataset = table(np.append(np.arange(100.0), [0.0] * 20)[:, None], num_test=20)
    splits = split(dataset, SplitRecipe(validation=0.1, calibration=0.3, test=0.5))
    np.testing.assert_array_equal(splits.test, np.arange(100, 120))
    assert [len(part) for part in parts(splits)] == [60, 10, 30, 20]


def test_too_few_rows() -> None:
    with pytest.raises(DataError, match="3 rows are too few for 4 parts"):
        split(table(np.arange(3.0)[:, None]), SplitRecipe())
    with pytest.raises(DataError, match="2 rows are too few for 3 parts"):
        split(table(np.arange(9.0)[:, None], num_test=7), SplitRecipe())
    assert [len(part) for part in parts(split(table(np.arange(4.0)[:, None]), SplitRecipe()))] == [1, 1, 1, 1]


def test_the_record_is_of_the_row_numbers() -> None:
    splits = split(table(np.arange(50.0)[:, None]), SplitRecipe())
    record = splits.record()
    assert tuple(record) == PARTS
    assert record["test"].rows == 10
    assert record["test"].sha256 == hashlib.sha256(struct.pack("<10q", *splits.test)).hexdigest()


@pytest.mark.parametrize(
    "fractions", [{"test": 0}, {"validation": 1}, {"seed": -1}, {"calibration": 0.7}, {"train": 0.5}]
)
def test_bad_split_recipes(fractions: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SplitRecipe.model_validate(fractions)


# Labels


def test_labels_of_an_npz_file(tmp_path: Path) -> None:
    rows, y = np.arange(12.0).reshape(4, 3), np.array([0, 1, 0, 1])
    np.savez(tmp_path / "x.npz", X=rows, y=y, column=y[:, None], three=np.array([0, 1, 2, 0]), short=y[:3])
    dataset, anomalous = NumpyArrays().load_labelled(tmp_path / "x.npz", "y")
    np.testing.assert_array_equal(dataset.rows, rows)
    assert anomalous.tolist() == [False, True, False, True]
    assert NumpyArrays().load_labelled(tmp_path / "x.npz", "column")[1].tolist() == anomalous.tolist()
    for name, reason in (
        ("three", "three[2] = 2 is neither 0 (normal) nor 1 (anomalous)"),
        ("short", "'short' of shape (3,) is not one label for each of 4 rows"),
        ("z", "holds no 'z' but X, y"),
    ):
        with pytest.raises(DataError, match=re.escape(reason)):
            NumpyArrays().load_labelled(tmp_path / "x.npz", name)
    np.save(tmp_path / "x.npy", rows)
    with pytest.raises(DataError, match=r"keep rows and 'y' in an \.npz file"):
        NumpyArrays().load_labelled(tmp_path / "x.npy", "y")


@pytest.mark.parametrize("labels", ["01001", ["false", "true", "false", "false", "true"]])
def test_labels_of_a_table_are_no_feature(labels: Any, tmp_path: Path) -> None:
    lines = [f"{i}.5,{label},{'ab'[i % 2]}" for i, label in enumerate(labels)]
    path = write(tmp_path / "x.csv", "\n".join(["size,odd,kind", *lines]))
    dataset, anomalous = Table().load_labelled(path, "odd")
    assert dataset.input.features == ("size", "kind")
    assert anomalous.tolist() == [False, True, False, False, True]
    assert Table(drop=("odd",)).load(path).fingerprint == dataset.fingerprint
    with pytest.raises(DataError, match="texts are not labels"):
        Table().load_labelled(path, "kind")
    with pytest.raises(DataError, match="no column 'none'"):
        Table().load_labelled(path, "none")


# Rows of one file in another's schema


def test_new_rows_take_the_model_s_categories(tmp_path: Path) -> None:
    schema = TabularInput(
        columns=(
            CategoricalColumn(name="kind", categories=("a", "b", "c")),
            NumericColumn(name="size"),
            CategoricalColumn(name="level", categories=(1, 2)),
        )
    )
    new = Table().load(write(tmp_path / "new.csv", "level,size,extra,kind\n2,7,0.1,c\n,9,0.2,b\n1,7,0.3,\n"))
    assert new.input.columns[1].type == "categorical"
    np.testing.assert_array_equal(aligned(new, schema, Path("new.csv")), [[2, 7, 1], [1, 9, np.nan], [np.nan, 7, 0]])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kind\na\nb\n", "no column 'size'"),
        ("kind,size\na,1\nz,2\nb,3\n", "column 'kind': 'z' is no category that the model knows"),
        ("kind,size\na,x\nb,y\n", "column 'size': 'x' is not a number"),
    ],
)
def test_new_rows_of_another_schema_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    schema = TabularInput(
        columns=(CategoricalColumn(name="kind", categories=("a", "b")), NumericColumn(name="size")),
    )
    with pytest.raises(DataError, match=reason):
        aligned(Table().load(write(tmp_path / "new.csv", text)), schema, Path("new.csv"))


def test_images_are_no_table(tmp_path: Path) -> None:
    pictures = Idx().load(write_idx(tmp_path))
    assert aligned(pictures, pictures.input, tmp_path) is pictures.rows
    with pytest.raises(DataError, match="a table of 1 columns, where the model takes uint8 images of shape"):
        aligned(Table().load(write(tmp_path / "x.csv", "a\n1\n2\n3\n")), pictures.input, Path("x.csv"))
