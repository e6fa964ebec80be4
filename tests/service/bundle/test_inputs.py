"""What a manifest says of columns holds for each request, so that none of it may be wrong or take long."""

import tracemalloc
from functools import partial

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.bundle import CategoricalColumn, ImageInput, NumericColumn, TabularInput, TextFormat
from service.bundle.graphs import graph_contract
from service.bundle.inputs import MAX_AFFIXES, MAX_SIGNS, TrainingRange

NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(values=st.lists(NUMBERS, min_size=1, max_size=8), numbers=st.lists(NUMBERS | st.just(np.nan), max_size=8))
def test_samples_take_the_nearest_of_the_training_values(values: list[float], numbers: list[float]) -> None:
    column = TrainingRange(low=min(values), high=max(values), values=tuple(sorted(values)))
    found = column.nearest(np.array(numbers))
    for number, nearest in zip(numbers, found.tolist(), strict=True):
        if np.isnan(number):
            assert np.isnan(nearest)
            continue
        within = min(max(number, min(values)), max(values))
        assert nearest in values
        assert abs(nearest - within) == min(abs(value - within) for value in values)


def test_the_nearest_of_many_values_takes_little_memory() -> None:
    column = TrainingRange(low=0, high=1e5, values=tuple(map(float, range(100_000))))
    tracemalloc.start()
    try:
        assert column.nearest(np.full(1000, 12.4)).tolist() == [12] * 1000
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["bz2_codec", "zlib", "rot13", "undefined", "no such", "utf-8\0", "\ud800", ""])
def test_encodings_are_those_of_texts(encoding: str) -> None:
    for known in ("utf-8", "utf-16", "CP1252", "gb18030", "utf-32-be"):
        assert TextFormat(encoding=known).encoding == known
    with pytest.raises(ValidationError, match="is no encoding of texts"):
        TextFormat(encoding=encoding)


def test_what_each_request_goes_through_is_short() -> None:
    column = NumericColumn(name="a" * 1000, affixes=("€" * 20,) * MAX_AFFIXES)
    TabularInput(columns=(column,), missing=("?" * 1000,) * MAX_SIGNS)
    with pytest.raises(ValidationError, match="at most 1000 items"):
        TabularInput(columns=(column,), missing=("?",) * (MAX_SIGNS + 1))
    with pytest.raises(ValidationError, match="at most 200 items"):
        NumericColumn(name="age", affixes=("€",) * (MAX_AFFIXES + 1))
    with pytest.raises(ValidationError, match="at most 20 characters"):
        NumericColumn(name="age", affixes=("€" * 21,))
    for kind in (NumericColumn, partial(CategoricalColumn, categories=("red",))):
        with pytest.raises(ValidationError, match="at most 1000 characters"):
            kind(name="a" * 1001)


def test_categories_can_be_written_as_json() -> None:
    for number in (2**63 - 1, -(2**63), 2**63, -(2**70)):
        column = CategoricalColumn.model_validate_json(b'{"name": "kind", "categories": [%d]}' % number)
        assert float(orjson.loads(orjson.dumps(column.categories))[0]) == float(number)


def test_pixels_are_counted_without_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    data = ImageInput(shape=(2048, 2048), dtype="uint8", low=0, high=255)
    monkeypatch.delattr(ImageInput, "features")
    assert graph_contract("draw", data, 2).inputs[1].shape == ("batch", 2**22)
