"""Picture files of every kind become the same levels, and hostile ones are refused before they cost anything."""

import io
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from service.bundle import Array, ImageInput, PictureReading
from service.errors import InvalidError, MalformedError, RequestError, TooLargeError
from service.readers.pictures import MAX_PIXELS, MAX_PROFILES, MAX_SCANS, Picture

COLOURS = ImageInput(shape=(6, 5, 3), dtype="uint8", low=0, high=255)
GRAY = ImageInput(shape=(6, 5), dtype="uint8", low=0, high=255)
RESIZED = COLOURS.model_copy(update={"reading": PictureReading(resample="lanczos")})
ORIENTATION = 0x0112
TURNED = Image.Exif()
TURNED[ORIENTATION] = 6

pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
rgb = Image.fromarray(pixels)
gray = Image.fromarray(pixels[..., 0])

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RED_AND_GREEN_SWAPPED = SRGB.replace(b"rXYZ", b"-XYZ").replace(b"gXYZ", b"rXYZ").replace(b"-XYZ", b"gXYZ")


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def read(body: bytes, data: ImageInput = COLOURS) -> Array:
    return Picture(body).instances(data)


@pytest.mark.parametrize(
    "body",
    [
        encoded(rgb),
        encoded(rgb, "WEBP", lossless=True),
        encoded(rgb, "TIFF"),
        encoded(rgb, "TIFF", compression="tiff_lzw"),
        encoded(rgb, "BMP"),
        encoded(rgb.convert("P", palette=Image.Palette.ADAPTIVE), "GIF"),
        encoded(rgb.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        encoded(rgb.convert("RGBA")),
        encoded(rgb.convert("RGBA"), "WEBP", lossless=True),
        encoded(rgb, icc_profile=RED_AND_GREEN_SWAPPED),
        encoded(rgb, "TIFF", icc_profile=RED_AND_GREEN_SWAPPED),
        encoded(rgb.transpose(Image.Transpose.ROTATE_90), exif=TURNED),
        encoded(rgb.transpose(Image.Transpose.ROTATE_90), "TIFF", tiffinfo={ORIENTATION: 6}),
        encoded(rgb.transpose(Image.Transpose.ROTATE_90), "WEBP", lossless=True, exif=TURNED),
    ],
)
def test_every_format_gives_the_same_levels(body: bytes) -> None:
    np.testing.assert_array_equal(read(body), pixels[None])


@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_stand_upright(turn: int) -> None:
    """A corner in the upper left is stored as each tag says."""
    corner = Image.new("L", (32, 16))
    corner.paste(255, (0, 0, 8, 8))
    stored = {
        1: corner,
        2: corner.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: corner.rotate(180),
        4: corner.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: corner.transpose(Image.Transpose.TRANSPOSE),
        6: corner.rotate(90, expand=True),
        7: corner.transpose(Image.Transpose.TRANSVERSE),
        8: corner.rotate(270, expand=True),
    }[turn]
    data = ImageInput(shape=(16, 32), dtype="uint8", low=0, high=255)
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    np.testing.assert_array_equal(read(encoded(stored, "JPEG", exif=exif, quality=95), data)[0], np.asarray(corner))


@pytest.mark.parametrize(
    ("image", "level"),
    [
        (Image.new("1", (5, 6), 1), 255),
        (Image.new("LA", (5, 6), (77, 255)), 77),
        (Image.new("RGB", (5, 6), (77, 77, 77)), 77),
        (Image.fromarray(np.full((6, 5), 0x4D21, np.uint16)), 0x4D),
    ],
)
def test_grey_pictures_of_all_kinds(image: Image.Image, level: int) -> None:
    assert (read(encoded(image), GRAY) == level).all()
    assert (read(encoded(image), COLOURS) == level).all()


def patched(body: bytes, tag: int, old: int, new: int) -> bytes:
    """A TIFF file with another number in a tag of one."""
    before, after = (struct.pack("<HHIH", tag, 3, 1, value) for value in (old, new))
    assert before in body
    return body.replace(before, after)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_black_is_black_where_white_is_zero(dtype: type) -> None:
    picture = Image.fromarray(np.full((6, 5), np.iinfo(dtype).max // 4, dtype))
    body = encoded(picture, "TIFF")
    assert (read(body, GRAY) == 63).all()
    assert (read(patched(body, 262, 1, 0), GRAY) == 192).all()


def test_a_tiff_picture_of_other_bands_may_be_whole() -> None:
    with pytest.raises(MalformedError, match="has bands or values that are not read; save it as 8-bit grey or RGB"):
        Picture(patched(encoded(rgb, "TIFF"), 277, 3, 5))


def test_cmyk_becomes_rgb() -> None:
    red = read(encoded(Image.new("CMYK", (5, 6), (0, 255, 255, 0)), "JPEG"))
    assert np.abs(red.astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize(
    ("body", "data", "problem"),
    [
        (encoded(Image.new("RGBA", (5, 6), (9, 9, 9, 254))), COLOURS, "has transparent pixels"),
        (encoded(Image.new("L", (5, 6), 7), transparency=7), GRAY, "has transparent pixels"),
        (encoded(Image.fromarray(np.full((6, 5), 700, np.uint16)), transparency=700), GRAY, "has transparent pixels"),
        (encoded(rgb), GRAY, "has colours, and the model's pictures are grey"),
        (encoded(Image.new("RGB", (7, 6))), COLOURS, "has 6 × 7 pixels .*, and the model's pictures have 6 × 5"),
        (encoded(Image.new("F", (5, 6)), "TIFF"), GRAY, "has pixels of mode F"),
        (encoded(rgb, "GIF", save_all=True, append_images=[gray]), COLOURS, "has several frames"),
        (encoded(rgb, "WEBP", save_all=True, append_images=[gray]), COLOURS, "has several frames"),
        (encoded(rgb, "TIFF", save_all=True, append_images=[gray]), COLOURS, "has several frames"),
        (encoded(rgb, "PNG", save_all=True, append_images=[gray]), COLOURS, "has several frames"),
    ],
)
def test_what_is_no_instance_is_refused(body: bytes, data: ImageInput, problem: str) -> None:
    with pytest.raises(InvalidError, match=problem) as caught:
        read(body, data)
    assert caught.value.location == "instances[0]"


def test_a_recipe_may_change_pictures() -> None:
    reading = PictureReading(resample="lanczos", to_gray=True, background="white")
    data = ImageInput(shape=(2, 3), dtype="uint8", low=0, high=255, reading=reading)
    np.testing.assert_array_equal(
        read(encoded(rgb), data)[0], np.asarray(rgb.convert("L").resize((3, 2), Image.Resampling.LANCZOS))
    )
    assert (read(encoded(Image.new("RGBA", (9, 9))), data) == 255).all()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (ImageInput(shape=(1, 3), dtype="uint8", low=0, high=16), np.array([[0, 8, 16]], np.uint8)),
        (ImageInput(shape=(1, 3), dtype="uint8", low=0, high=1), np.array([[0, 1, 1]], np.uint8)),
        (ImageInput(shape=(1, 3), dtype="float32", low=-1, high=1), np.array([[-1, 1 / 255, 1]], np.float32)),
    ],
)
def test_black_is_the_lowest_value_and_white_the_highest(data: ImageInput, expected: Array) -> None:
    values = read(encoded(Image.fromarray(np.array([[0, 128, 255]], np.uint8))), data)
    assert values.dtype == expected.dtype
    np.testing.assert_allclose(values, expected[None], rtol=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        b"not a picture at all",
        encoded(rgb)[:20],
        encoded(rgb)[:-40],
        encoded(rgb, "JPEG")[:-200],
        encoded(rgb, "WEBP")[:-20],
        encoded(rgb, "TIFF")[:60],
    ],
)
def test_a_damaged_file_is_refused_in_words(body: bytes) -> None:
    with pytest.raises(MalformedError, match=r"is damaged|is no PNG") as caught:
        read(body)
    assert "BytesIO" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "is empty"),
        (b"\0\0\0\x18ftypheic" + bytes(99), "is HEIC, which is not read; save the picture as PNG or JPEG"),
        (b"\0\0\0\x1cftypavif" + bytes(99), "is AVIF, which is not read; save the picture as PNG or JPEG"),
        (b"\0\0\0\x20ftypisom" + bytes(99), "is video, which is not read; save the picture as PNG or JPEG"),
        (bytes(128) + b"DICM" + bytes(99), "is DICOM, which is not read; save the picture as PNG or JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is SVG, which is not read; save the picture as PNG or JPEG"),
        (encoded(rgb, "JPEG2000"), "is JPEG 2000, which is not read; save the picture as PNG or JPEG"),
    ],
    ids=["empty", "heic", "avif", "video", "dicom", "svg", "jpeg 2000"],
)
def test_a_picture_in_another_format_is_named(body: bytes, problem: str) -> None:
    with pytest.raises(MalformedError) as caught:
        read(body)
    assert caught.value.detail == problem


# Hostile files


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_strips(count: int) -> bytes:
    tags = {256: 5, 257: 6, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1}
    entries = [struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items()]
    entries[5:5] = [struct.pack("<HHII", 273, 3, count, 200)]
    entries.append(struct.pack("<HHII", 279, 3, count, 200))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries)
    return head.ljust(200, b"\0") + bytes(2 * count)


PNG, GIF, JPEG = encoded(rgb), encoded(gray, "GIF"), encoded(rgb, "JPEG", progressive=True)
PROFILE = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20)))
TEXT = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20)))
SCAN = JPEG[JPEG.rindex(b"\xff\xda") : -2]
COMMENT = b"\x21\xfe" + 10**5 * (b"\xff" + bytes(255)) + b"\0"
IMAGE = 13 + 3 * 2 ** ((GIF[10] & 7) + 1)

HOSTILE: dict[str, Callable[[], bytes]] = {
    "pixels": lambda: encoded(Image.new("1", (2**13 + 1, 2**12))),
    "more pixels": lambda: encoded(Image.new("1", (20_000, 20_000))),
    "scans": lambda: JPEG[:-2] + 900 * SCAN + JPEG[-2:],
    "segments": lambda: JPEG[:2] + 10**6 * b"\xff\xfe\0\2" + JPEG[2:],
    "chunks": lambda: PNG[:33] + 10**6 * chunk(b"teSt") + PNG[33:],
    "chunks behind": lambda: PNG[:-12] + 10**6 * chunk(b"teSt") + PNG[-12:],
    "profiles": lambda: PNG[:33] + 1000 * PROFILE + PNG[33:],
    "texts": lambda: PNG[:33] + 1000 * TEXT + PNG[33:],
    "comments": lambda: GIF[:IMAGE] + COMMENT + GIF[IMAGE:],
    "strips": lambda: with_strips(10**6),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pictures_cost_little(name: str) -> None:
    body = HOSTILE[name]()
    before = time.process_time()
    with pytest.raises((TooLargeError, MalformedError)):
        read(body, RESIZED)
    assert time.process_time() - before < 1


@pytest.mark.parametrize(
    ("make", "most", "parts"),
    [
        (lambda number: JPEG[:-2] + (number - JPEG.count(SCAN[:2])) * SCAN, MAX_SCANS, "scans"),
        (lambda number: PNG[:33] + number * PROFILE + PNG[33:], MAX_PROFILES, "colour profiles"),
    ],
)
def test_a_picture_has_no_more_parts_than_it_may(make: Callable[[int], bytes], most: int, parts: str) -> None:
    Picture(make(most))
    with pytest.raises(TooLargeError, match=f"has {most + 1:,} {parts}"):
        Picture(make(most + 1))


def test_a_picture_s_size_is_looked_at_before_it_is_decoded() -> None:
    body = encoded(Image.new("RGB", (5000, 5000)))
    before = time.process_time()
    with pytest.raises(InvalidError, match="has 5000 × 5000 pixels"):
        read(body)
    assert time.process_time() - before < 0.05
    with pytest.raises(TooLargeError, match=f"pixels; at most {MAX_PIXELS:,} are read"):
        read(HOSTILE["pixels"](), RESIZED)


def test_any_bytes_are_a_picture_or_refused() -> None:
    """A few hundred damaged files of every format; none fails in another way."""
    chance = np.random.default_rng(0)
    for form in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"):
        body = np.frombuffer(encoded(rgb, form), np.uint8)
        for _ in range(60):
            damaged = body.copy()
            damaged[chance.integers(0, len(body), 4)] = chance.integers(0, 256, 4)
            try:
                assert read(damaged.tobytes(), RESIZED).shape == (1, 6, 5, 3)
            except RequestError:
                continue
