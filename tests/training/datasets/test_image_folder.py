"""Folders of pictures."""

import io
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from service.bulk.readers import open_inputs, read_from
from service.bundle import ImageInput, PictureReading
from service.errors import FileError
from tests.training.datasets.files import images, message, write, write_folder
from training.datasets import Dataset
from training.datasets.image_folder import ImageFolder
from training.first_look import look


def test_image_folder_reads_recursively_in_order(tmp_path: Path) -> None:
    pixels = images(3, 4, 5, 3)
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for image, name in zip(pixels, ["a.PNG", "b/a.webp", "c"], strict=True):
        Image.fromarray(image).save(tmp_path / name, "WEBP" if "webp" in name else "PNG", lossless=True)
    write(tmp_path / "._a.png", "not an image")
    write(tmp_path / ".hidden" / "a.png", "not an image")
    dataset = ImageFolder(strict=True).load(tmp_path)
    np.testing.assert_array_equal(dataset.rows, pixels)
    assert dataset.input == ImageInput(shape=(4, 5, 3), dtype="uint8", low=0, high=255)
    assert dataset.notes == ()


def test_what_a_recipe_says_is_kept_for_clients(tmp_path: Path) -> None:
    Image.new("RGB", (9, 7), (90, 90, 90)).save(tmp_path / "a.jpeg")
    Image.new("L", (4, 4), 90).save(tmp_path / "b.png")
    Image.new("LA", (4, 4), (9, 0)).save(tmp_path / "c.png")
    dataset = ImageFolder(size=(2, 3), color="gray", background="white").load(tmp_path)
    np.testing.assert_array_equal(dataset.rows, np.broadcast_to([[[90]], [[90]], [[255]]], (3, 2, 3)))
    assert isinstance(dataset.input, ImageInput)
    assert dataset.input.reading == PictureReading(resample="lanczos", to_gray=True, background="white")
    coloured = ImageFolder(size=(2, 3), color="rgb").load(tmp_path)
    assert (coloured.rows == np.full((2, 2, 3, 3), 90)).all()


def test_pictures_are_shrunk_without_aliasing(tmp_path: Path) -> None:
    checkerboard = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    Image.fromarray(checkerboard.astype(np.uint8)).save(tmp_path / "a.png")
    assert np.ptp(ImageFolder(size=(8, 8)).load(tmp_path).rows) < 16


def test_what_cannot_be_read_is_named_and_left_out(tmp_path: Path) -> None:
    pixels = images(6, 4, 5)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    write(tmp_path / "3.png", (tmp_path / "3.png").read_bytes()[:-40])
    Image.new("LA", (5, 4), (9, 254)).save(tmp_path / "4.png")
    write(tmp_path / "labels.csv", "not an image")
    dataset = ImageFolder().load(tmp_path)
    np.testing.assert_array_equal(dataset.rows, pixels[[0, 1, 2, 5]])
    (note,) = dataset.notes
    assert note.startswith("left out 3 of 7 files. ")
    for reason in ("3.png: is damaged: ", "4.png: has transparent pixels", "labels.csv: is no PNG, JPEG, WebP"):
        assert reason in note
    assert f"{tmp_path}: 3 of 7 files cannot be read. " in message(ImageFolder(strict=True), tmp_path)


def test_pictures_that_are_left_out_are_named_before_other_files(tmp_path: Path) -> None:
    for i in range(9):
        write(tmp_path / f"{i}.txt", "not an image")
        write(tmp_path / f"{i}.svg", "<svg/>")
        write(tmp_path / f"{i}.xml", "<?xml?>")
        write(tmp_path / f"{i}.empty", "")
    Image.new("L", (5, 4), 99).save(tmp_path / "a.png")
    Image.new("LA", (5, 4), (9, 254)).save(tmp_path / "b.PNG")
    (note,) = ImageFolder().load(tmp_path).notes
    assert note.startswith("left out 37 of 38 files. b.PNG: has transparent pixels")


def test_labelled_anomalies_are_kept_for_evaluation(tmp_path: Path) -> None:
    pixels, labels = images(4, 4, 4), tmp_path / "labels.csv"
    for name, image in zip(["a/1.png", "a/2.png", "b/1.png", "b/3.png"], pixels, strict=True):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    source = ImageFolder(exclude_labels=labels)

    def load(text: str) -> Dataset:
        labels.write_text(f"file,label\n{text}")
        return source.load(tmp_path / "pictures")

    dataset = load("3.png,anomaly\npictures/a/1.png,anomaly\n2.png,normal\n4.png,anomaly\n")
    assert dataset.excluded is not None
    assert dataset.numbers is not None
    np.testing.assert_array_equal(dataset.rows, pixels[dataset.numbers])
    np.testing.assert_array_equal(dataset.excluded.rows, pixels[dataset.excluded.numbers])
    assert dataset.names == tuple(str(tmp_path / "pictures" / name) for name in ("a/2.png", "b/1.png"))
    assert (dataset.numbers.tolist(), dataset.excluded.numbers.tolist()) == ([1, 2], [0, 3])
    assert source.for_other_rows().load(tmp_path / "pictures").excluded is None
    for text, said in (
        ("1.png,anomaly\n", "file '1.png' may be .*a/1.png or .*b/1.png; write more of its path"),
        ("a/1.png,anomaly\npictures/a/1.png,normal\n", "a/1.png' is labelled both normal and anomaly"),
        ("4.png,anomaly\n", "none of its 1 anomalies is a row of .*pictures, by 'file'"),
        ("a/1.png,1\na/2.png,1\nb/1.png,1\nb/3.png,1\n", "leaves no row of"),
    ):
        with pytest.raises(FileError, match=said):
            load(text)
    labels.write_text("row,label\n1,anomaly\n")
    with pytest.raises(FileError, match=r"none of its 1 anomalies is a row of .*, by 'row'"):
        source.load(tmp_path / "pictures")


def test_links_are_followed_alike_in_training_and_bulk(tmp_path: Path) -> None:
    for folder in ("all", "chosen", "chosen/here"):
        (tmp_path / folder).mkdir()
    pixels = images(5, 4, 5)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / ("all" if i else "chosen/here") / f"{i}.png")
    (tmp_path / "chosen" / "linked").symlink_to(tmp_path / "all")
    (tmp_path / "chosen" / "one.png").symlink_to(tmp_path / "all" / "2.png")
    (tmp_path / "chosen" / "nothing.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "chosen" / "around").symlink_to(tmp_path / "chosen")
    (tmp_path / "chosen" / "up").symlink_to(tmp_path)
    dataset = ImageFolder().load(tmp_path / "chosen")
    np.testing.assert_array_equal(dataset.rows, pixels[[0, 1, 2, 3, 4, 2]])
    assert dataset.notes == ("left out 1 of 7 files. nothing.png: cannot be read: No such file or directory",)
    (batch,) = read_from(open_inputs([str(tmp_path / "chosen")], dataset.input), 0, 64)
    np.testing.assert_array_equal(batch.x, dataset.rows)


def test_an_archive_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "pictures.zip", b"PK\3\4")
    assert message(ImageFolder(), path) == f"{path}: is one file; give a folder of pictures; unpack it first"


def test_files_of_arrays_name_the_recipe_that_reads_them(tmp_path: Path) -> None:
    for name, recipe in (("rows.npz", "arrays"), ("rows.npy", "arrays"), ("train-images-idx3-ubyte.gz", "mnist")):
        (folder := tmp_path / name[:8]).mkdir(exist_ok=True)
        path = write(folder / name, "no picture")
        assert message(ImageFolder(), path) == f"{path}: is one file; the recipe {recipe} reads {name}"
        text = f"{folder}: holds no picture that can be read; the recipe {recipe} reads {name}"
        assert message(ImageFolder(), folder) == text
        path.unlink()


def test_a_folder_without_a_readable_picture_is_refused(tmp_path: Path) -> None:
    assert message(ImageFolder(), tmp_path) == f"{tmp_path}: holds no picture that can be read."
    for i in range(5):
        Image.new("LA", (5, 4), (9, 254)).save(tmp_path / f"{i}.png")
    text = message(ImageFolder(), tmp_path)
    assert "5 of 5 files cannot be read. 0.png, 1.png, 2.png and 2 more: has transparent pixels" in text
    assert text.endswith(f". Lay them on white: lowerbound train images --data {tmp_path} --dataset.background white")
    text = message(ImageFolder(size=(2, 3), strict=True), tmp_path)
    command = (
        f"lowerbound train images --data {tmp_path} --dataset.size '[2, 3]' --dataset.strict --dataset.background white"
    )
    assert text.endswith(command)
    with pytest.raises(FileError, match="1 distinct rows are too few"):
        look("images", shlex.split(command)[3:], Console(file=io.StringIO()))
    assert (ImageFolder(background="white").load(tmp_path).rows == 10).all()


def test_a_large_folder_of_transparent_pictures_is_refused_before_it_is_read(tmp_path: Path) -> None:
    Image.new("LA", (5, 4), (9, 254)).save(tmp_path / "000.png")
    for i in range(1, 250):
        (tmp_path / f"{i:03}.png").symlink_to("000.png")
    text = message(ImageFolder(), tmp_path)
    assert "84 of 250 files cannot be read, and no other was tried. 000.png, 003.png, 006.png and 81 more: has" in text
    assert text.endswith("--dataset.background white")


def test_several_sizes_are_refused_with_the_command_that_trains(tmp_path: Path) -> None:
    for i, size in enumerate([(500, 400), (500, 400), (300, 640), (20, 20), (21, 20)]):
        Image.new("RGB", size).save(tmp_path / f"{i}.png")
    text = message(ImageFolder(color="gray"), tmp_path)
    assert "pictures of 4 sizes (height × width): 2 of 400 × 500, 1 of 640 × 300, 1 of 20 × 20 and 1 more." in text
    command = f"lowerbound train images --data {tmp_path} --dataset.color gray --dataset.size '[128,96]'"
    assert text.endswith(command)


def test_what_is_done_to_pictures_is_said(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("L", (5, 4), 7).save(tmp_path / "b.png")
    Image.fromarray(np.full((4, 5), 40_000, np.uint16)).save(tmp_path / "c.png")
    dataset = ImageFolder().load(tmp_path)
    np.testing.assert_array_equal(dataset.rows[:, 0, 0], [[255, 0, 0], [7, 7, 7], [156, 156, 156]])
    assert dataset.notes == (
        "2 of 3 pictures are grey and become RGB; --dataset.color gray makes all grey",
        "1 of 3 pictures have 16-bit levels, of which the upper 8 bits are kept",
    )
    # Cameras write 12 bits into files of 16.
    for name in "abc":
        Image.fromarray(np.full((4, 5), 4095, np.uint16)).save(tmp_path / f"{name}.png")
    assert ImageFolder().load(tmp_path).notes[1].startswith("no pixel is brighter than 15 of 255")


def test_a_smaller_size_is_suggested_for_large_pictures(tmp_path: Path) -> None:
    Image.new("L", (600, 450)).save(tmp_path / "a.png")
    (note, _) = ImageFolder().load(tmp_path).notes
    assert note.startswith("pictures of 450 × 600 pixels take long to train on")
    assert note.endswith("--dataset.size '[96,128]'")
    assert not any("take long" in note for note in ImageFolder(size=(96, 128)).load(tmp_path).notes)
    Image.new("L", (224, 224)).save(tmp_path / "a.png")
    assert ImageFolder().load(tmp_path).notes[0].endswith("--dataset.size '[128,128]'")
    Image.new("L", (3000, 2)).save(tmp_path / "a.png")
    assert not any("take long" in note for note in ImageFolder().load(tmp_path).notes)


def test_grey_pictures_of_three_channels_are_said(tmp_path: Path) -> None:
    note = "all pictures are RGB of three equal channels; --dataset.color gray makes them grey, and is faster"
    Image.new("RGB", (5, 4), (70, 70, 70)).save(tmp_path / "a.png")
    Image.new("L", (5, 4), 90).convert("P").save(tmp_path / "b.gif")
    Image.new("L", (5, 4), 7).save(tmp_path / "c.png")
    assert ImageFolder().load(tmp_path).notes == (note,)
    assert ImageFolder(color="gray").load(tmp_path).notes == ()
    assert note not in ImageFolder(color="rgb").load(tmp_path).notes
    Image.new("RGB", (5, 4), (70, 70, 71)).save(tmp_path / "d.png")
    assert note not in ImageFolder().load(tmp_path).notes


def test_masks_beside_their_pictures_are_said(tmp_path: Path) -> None:
    for name in ("1.jpg", "1.png", "2.jpg", "2.png", "3.jpg", "4.jpg", "5.jpg"):
        Image.new("L", (5, 4), 90).save(tmp_path / name)
    note = "2 names have several pictures, as 1.jpg and 1.png; keep masks and copies in another folder"
    assert ImageFolder().load(tmp_path).notes == (note,)
    Image.new("L", (5, 4), 90).save(tmp_path / "6.jpg")
    assert ImageFolder().load(tmp_path).notes == ()


def test_many_images_show_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_folder(tmp_path) / "00.png"
    for number in range(1000):
        shutil.copy(file, tmp_path / f"x{number}.png")
    assert len(ImageFolder().load(tmp_path).rows) == 1020
    captured = capsys.readouterr()
    assert "Reading images" in captured.err
    assert not captured.out
