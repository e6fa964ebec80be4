"""Folders of pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.bundle import ImageInput
from tests.training.datasets.files import images, message, write, write_folder
from training.datasets.image_folder import ImageFolder


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
