"""Long JSON arrays read in pieces give the same rows, marks and refusals as read at once."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle import CategoricalColumn, ImageInput, NumericColumn, TabularInput
from service.codecs import bodies, pieces
from service.codecs.json import Json
from service.codecs.pieces import cut, find_array
from service.codecs.rows import Reading, Rows
from service.errors import InvalidError, MalformedError, RequestError, TooLargeError

JSON = Json.media_type
IMAGE = ImageInput(shape=(2, 2), dtype="uint8", low=0, high=16)
TABLE = TabularInput(
    columns=(NumericColumn(name="age"), CategoricalColumn(name="word", categories=("a", 'b"],', "\\")))
)
MARK = Reading(mark=True, unseen="mark")

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('a"\\[]{},:\u00e9', max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('k"\\', max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(values, max_size=12), st.integers(4, 40), st.booleans())
def test_runs_of_elements_are_all_elements(elements: list[Any], size: int, spaced: bool) -> None:
    body = json.dumps({"instances": elements}, separators=(" , ", " : ") if spaced else (",", ":")).encode()
    start = find_array(body)
    assert start is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE", size)
        found = [json.loads(b"[" + run + b"]") for _, run in cut(body, start, 10**6)]
    assert [element for run in found for element in run] == elements


def read(body: bytes, data: ImageInput | TabularInput, reading: Reading, piece: int, most: int = 10**6) -> Rows:
    with pytest.MonkeyPatch.context() as patch:
        for module in (pieces, bodies):
            patch.setattr(module, "PIECE", piece)
        return bodies.read_rows(body, JSON, data, reading, most)


def both(body: bytes, data: ImageInput | TabularInput, reading: Reading = MARK) -> Rows:
    """The rows read in pieces, after a comparison with the rows read at once."""
    rows, whole = read(body, data, reading, 64), read(body, data, reading, 2**20)
    np.testing.assert_array_equal(rows.x, whole.x)
    assert rows.x.dtype == whole.x.dtype
    np.testing.assert_array_equal(rows.places, whole.places)
    assert (rows.total, rows.reading) == (whole.total, whole.reading)
    for marks, expected in ((rows.marks.unreadable, whole.marks.unreadable), (rows.marks.unseen, whole.marks.unseen)):
        assert {row: str(error) for row, error in marks.items()} == {row: str(e) for row, e in expected.items()}
    return rows


def test_rows_and_marks_are_the_same_in_pieces() -> None:
    pictures: list[Any] = [[[i % 17, 1], [2, 3]] for i in range(50)]
    assert both(json.dumps({"instances": pictures}).encode(), IMAGE).x.shape == (50, 2, 2)
    pictures[7], pictures[33], pictures[40] = [[1, 2]], [[99, 0], [0, 0]], "picture"
    assert list(both(json.dumps({"instances": pictures}).encode(), IMAGE).marks.unreadable) == [7, 33, 40]
    assert both(json.dumps({"instances": [[[99, 0], [0, 0]]] * 30}).encode(), IMAGE).x.shape == (1, 2, 2)
    pictures[10:25] = [[[99, 0], [0, 0]]] * 15  # So that whole pieces have no row to score.
    assert both(json.dumps({"instances": pictures}).encode(), IMAGE).x.shape == (32, 2, 2)
    records: list[Any] = [{"age": i, "word": 'b"],'} for i in range(30)]
    records[11], records[20] = {"age": "x", "word": "a"}, {"age": None, "word": "\\ new"}
    rows = both(json.dumps({"instances": records}).encode(), TABLE)
    assert (list(rows.marks.unreadable), list(rows.marks.unseen)) == ([11], [20])


@pytest.mark.parametrize(
    ("text", "kind", "problem"),
    [
        ('{"instances": [%s, [[0, 99], [0, 0]]]}', InvalidError, r"instances\[40\]\[0\]\[1\]: 99 is outside"),
        ('{"instances": [%s, [[0, 1]]]}', InvalidError, r"instances\[40\]: must have 2 values, not 1"),
        ('{"instances": [%s,]}', MalformedError, "a comma before the end|not readable JSON"),
        ('{"instances": [%s,,[[0,0],[0,0]]]}', MalformedError, "not readable JSON"),
        ('{"instances": [%s', MalformedError, "the array has no end"),
        ('{"instances": [%s]', InvalidError, "one key"),
        ('{"instances": [%s], "seed": 1}', InvalidError, "one key"),
        ('{"instances": [%s]} {}', InvalidError, "one key"),
        ('{"instances": [%s, [[' + "0," * 10**6 + "0]]]}", TooLargeError, "an instance of more than"),
    ],
)
def test_what_is_wrong_is_found_in_any_piece(text: str, kind: type[RequestError], problem: str) -> None:
    with pytest.raises(kind, match=problem):
        read((text % ", ".join(["[[0, 1], [2, 3]]"] * 40)).encode(), IMAGE, Reading(), 64)


@pytest.mark.parametrize("piece", [64, 2**20])
def test_rows_are_counted_over_all_pieces(piece: int) -> None:
    body = json.dumps({"instances": [[[0, 1], [2, 3]]] * 40}).encode()
    assert read(body, IMAGE, MARK, piece, most=40).total == 40
    with pytest.raises(TooLargeError, match="rows or more; one request may ask for 39 draws"):
        read(body, IMAGE, MARK, piece, most=39)
