"""Whatever bytes come in, a codec reads exactly what they say or refuses them by name."""

import gzip
import io
import json
import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from service.bundle import ImageInput, NumericColumn, TabularInput
from service.codecs import registry
from service.codecs.codec import Reader
from service.codecs.json import MAX_NESTED, Json, read_json
from service.codecs.registry import FILE_READERS, READERS, WRITERS, Png
from service.codecs.text import read_text
from service.errors import InvalidError, MalformedError, RequestError, TooLargeError
from service.readers.files import TextBytes
from service.readers.pictures import MEDIA_TYPES, Picture, PictureBytes
from tests.service.codecs.schemas import TABLE, parse_instances

Array = npt.NDArray[Any]

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), children),
    max_leaves=20,
)


def test_every_codec_is_listed_by_its_type() -> None:
    assert set(READERS) == {"application/json", "application/x-npy", "application/vnd.apache.arrow.stream"}
    assert set(FILE_READERS) == {*MEDIA_TYPES, "application/octet-stream", "text/csv"}
    assert set(WRITERS) == {*READERS, "text/csv", "image/png"}
    for codecs in (READERS, WRITERS):
        assert all(codec.media_type == name for name, codec in codecs.items())


# JSON


@given(values=VALUES)
@example(values="[")  # As many brackets in the body as there are lists in a list.
def test_json_reads_what_is_written(values: Any) -> None:
    for ascii_only in (True, False):
        body = json.dumps({"instances": values}, ensure_ascii=ascii_only).encode()
        read = Json().decode(body, "instances")
        assert (read.tolist() if isinstance(read, np.ndarray) else read) == values


@given(values=VALUES, cut=st.integers(1))
def test_no_part_of_json_is_json(values: Any, cut: int) -> None:
    body = json.dumps({"instances": values}, ensure_ascii=False).encode()
    with pytest.raises(MalformedError):
        Json().decode(body[: cut % len(body)], "instances")


@given(body=st.binary(max_size=200) | st.text('{}[]",:0123456789eE+-.truefalsn \\ u').map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    def read(codec: Reader) -> None:
        values = codec.decode(body, "a field that no random text has")
        if isinstance(values, PictureBytes):
            Picture(values.body)
        if isinstance(values, TextBytes):
            read_text(values, TABLE, 10)

    for codec in (READERS | FILE_READERS).values():
        with pytest.raises(RequestError):
            read(codec)


@pytest.mark.parametrize(
    ("body", "detail", "location"),
    [
        (b"", "Expecting value", None),
        (b"\xff", "not UTF-8: invalid start byte at byte 0", None),
        (b'{"x": "\xed\xa0\x80"}', "not UTF-8", None),
        ("\ufeff{}".encode(), "Unexpected UTF-8 BOM", None),
        ('{"x": [1]}'.encode("utf-16"), "not UTF-8", None),
        (b'{"x": [1,]}', "not readable JSON", None),
        (b"{'x': [1]}", "not readable JSON", None),
        (b'{"x": [01]}', "not readable JSON", None),
        (b'{"x": [+1]}', "not readable JSON", None),
        (b'{"x": [.5]}', "not readable JSON", None),
        (b'{"x": [0x1]}', "not readable JSON", None),
        (b'{"x": ["\n"]}', "not readable JSON", None),
        (b'{"x": NaN}', "NaN is no JSON number", None),
        (b'{"x": [Infinity]}', "Infinity is no JSON number", None),
        (b'{"x": -Infinity}', "-Infinity is no JSON number", None),
        (b'{"x": ' + b"1" * 5000 + b"}", "not readable JSON", None),
        (b'{"x":' + b"[" * 10**6 + b"1" + b"]" * 10**6 + b"}", "nested too deeply", None),
        (b'{"x":' * 10**5, "nested too deeply", None),
        (b'{"x": 1, "x": 1}', "'x' occurs twice", None),
        (b'{"y": {"x": 1, "x": 1}, "x": 1}', "'x' occurs twice", "y"),
        (b'{"x": [{}, {"a": 1, "b": 2, "a": 3}]}', "'a' occurs twice", "x[1]"),
        (b'{"x": [{}, {"a": [0, {"b": 1, "b": 2}]}]}', "'b' occurs twice", "x[1].a[1]"),
        (b'{"x": [{"a": 1, "\\u0061": 3}]}', "'a' occurs twice", "x[0]"),
    ],
)
def test_damaged_json_is_refused(body: bytes, detail: str, location: str | None) -> None:
    with pytest.raises(MalformedError) as refusal:
        Json().decode(body, "x")
    assert detail in refusal.value.detail
    assert refusal.value.location == location


@pytest.mark.parametrize("depth", [100, 300, 500, 900, 2000, 10**5])
def test_a_key_repeated_deep_down_is_found(depth: int) -> None:
    body = b'{"x":' + b"[" * depth + b'{"a":1,"a":2}' + b"]" * depth + b"}"
    with pytest.raises(MalformedError, match=r"occurs twice|nested too deeply"):
        Json().decode(body, "x")


def test_the_key_repeated_among_many_is_named() -> None:
    keys = [f'"{i}": 0' for i in range(10**5)]  # Comparing all with all would take minutes.
    body = '{"x": [{' + ",".join([*keys, '"99999": 1']) + "}]}"
    with pytest.raises(MalformedError, match=r"x\[0\]: the key '99999' occurs twice"):
        Json().decode(body.encode(), "x")


@pytest.mark.parametrize(
    "body",
    [b"[]", b"1", b"null", b'"x"', b"{}", b'{"y": 1}', b'{"x": 1, "y": 1}', b'{"x": [[1, 2]], "y": 1}', b'{"X": 1}'],
)
def test_json_must_be_an_object_with_the_field(body: bytes) -> None:
    with pytest.raises(InvalidError) as refusal:
        Json().decode(body, "x")
    assert refusal.value.location == "body"
    assert refusal.value.detail == 'must be an object with the one key "x"'


@given(
    array=hnp.arrays(
        st.sampled_from(["f4", "f8", "u1"]),
        hnp.array_shapes(max_dims=3, max_side=4),
    )
)
def test_json_keeps_every_bit(array: Array) -> None:
    answer = json.loads(Json().encode({"values": array, "plain": [1, "a"]}))
    assert list(answer) == ["values", "plain"]
    expected = np.where(np.isfinite(array), array, np.nan)  # JSON has no word for infinity either.
    np.testing.assert_array_equal(
        np.array(answer["values"], np.float64).astype(array.dtype), expected.astype(array.dtype)
    )


def test_json_writes_any_layout() -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    for view in (array.T, array[:, ::-1], np.asfortranarray(array), array[:1], array[:, :0]):
        assert json.loads(Json().encode({"x": view})) == {"x": view.tolist()}
    assert json.loads(Json().encode({"x": np.array([np.nan, 1.0])})) == {"x": [None, 1.0]}


# PNG


@given(pixels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))))
def test_png_keeps_every_pixel(pixels: Array) -> None:
    pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    with Image.open(io.BytesIO(Png().encode({"picture": pixels}))) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_numbers_survive_the_way_back() -> None:
    values = [math.pi, 5e-324, 1.7976931348623157e308, -0.0, 0.1]
    answer = json.loads(Json().encode({"x": np.array(values)}))["x"]
    assert answer == values
    assert math.copysign(1, answer[3]) == -1


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 1), (2, 5), (3, 2, 2), (2, 3, 4, 3)])
def test_regular_numbers_are_read_without_python_objects(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    for body in (json.dumps({"instances": x.tolist()}), json.dumps({"instances": x.tolist()}, indent=1)):
        read = Json().decode(body.encode(), "instances")
        assert isinstance(read, np.ndarray)
        assert read.tolist() == x.tolist()


@pytest.mark.parametrize(
    "text",
    [
        "[[1, 2], [3]]", "[[1], 2]", "[1, [2]]", "[[], []]", "[[1, 2], []]", "[1, true]", "[1, null]", '[1, "2"]',
        "[12345678901234567890123]", "[[[[[1]]]]]",
    ],
)  # fmt: skip
def test_whatever_is_not_a_regular_array_is_left_to_the_exact_reader(text: str) -> None:
    assert Json().decode(f'{{"instances": {text}}}'.encode(), "instances") == json.loads(text)


@given(st.binary(max_size=40))
def test_no_bytes_are_mistaken_for_a_regular_array(noise: bytes) -> None:
    body = b'{"instances": [' + noise + b"]}"
    try:
        read = Json().decode(body, "instances")
    except (MalformedError, InvalidError):
        return
    assert (read.tolist() if isinstance(read, np.ndarray) else read) == json.loads(body)["instances"]


# Files


def encoded(picture: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, lossless=True)
    return buffer.getvalue()


def npz(**arrays: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 6, 5), np.uint8)
GRAY = ImageInput(shape=(6, 5), dtype="uint8", low=0, high=255)
IDX = bytes([0, 0, 8, 3]) + struct.pack(">3I", *PIXELS.shape) + PIXELS.tobytes()


@pytest.mark.parametrize("media_type", [name for name in FILE_READERS if name.startswith("image/")])
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_a_picture_is_read_whatever_it_is_called(media_type: str, form: str) -> None:
    picture = FILE_READERS[media_type].decode(encoded(Image.fromarray(PIXELS[0]), form), "instances")
    np.testing.assert_array_equal(parse_instances(picture, GRAY), PIXELS[:1])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (encoded(Image.fromarray(PIXELS[0]), "PNG"), PIXELS[:1]),
        (IDX, PIXELS),
        (gzip.compress(IDX), PIXELS),
        (npz(X=PIXELS, y=np.zeros(3)), PIXELS),
        (npz(only=PIXELS > 99), PIXELS > 99),
    ],
)
def test_a_file_is_what_its_content_says(body: bytes, expected: npt.NDArray[Any]) -> None:
    values = FILE_READERS["application/octet-stream"].decode(body, "instances")
    np.testing.assert_array_equal(parse_instances(values, GRAY), expected)


def test_levels_of_files_are_those_between_black_and_white() -> None:
    levels = FILE_READERS["application/octet-stream"].decode(IDX, "instances")
    binary = parse_instances(levels, ImageInput(shape=(6, 5), dtype="uint8", low=0, high=1))
    np.testing.assert_array_equal(binary, PIXELS >= 128)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"age,sex\n1,m\n", "is no PNG, .* and no IDX, .npy or .npz file"),
        (gzip.compress(IDX), "unpacks to more than 80 bytes"),
        (npz(X=PIXELS), "unpacks to more than 80 bytes"),
        (npz(a=np.zeros(1), b=np.zeros(1)), "holds a, b; name one array X, or save one as .npy"),
        (npz(X=np.zeros(9))[:-30], "cannot be read"),
        (npz(X=np.zeros(9)) + 2000 * b"PK\x01\x02", "an archive of 2,00. files"),
    ],
    ids=["text", "gzip bomb", "npz bomb", "two arrays", "cut", "members"],
)
def test_files_that_are_no_instances_are_refused(body: bytes, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "80" in problem:
        monkeypatch.setattr(registry, "MAX_UNPACKED", 80)
    with pytest.raises(RequestError, match=problem):
        FILE_READERS["application/octet-stream"].decode(body, "instances")


def test_pictures_are_no_rows_of_a_table() -> None:
    table = TabularInput(columns=(NumericColumn(name="age"),))
    for body in (encoded(Image.fromarray(PIXELS[0]), "PNG"), IDX):
        values = FILE_READERS["application/octet-stream"].decode(body, "instances")
        with pytest.raises(InvalidError, match="must be rows of this model's table, not pictures"):
            parse_instances(values, table)


def test_a_document_of_too_many_arrays_is_refused_before_it_is_read() -> None:
    text = b'{"instances":"' + b"[" * (MAX_NESTED - 2)
    assert read_json(text + b'"}') == {"instances": "[" * (MAX_NESTED - 2)}
    with pytest.raises(TooLargeError, match="1,048,577 arrays"):
        read_json(text + b'["}')
