"""Latents become exactly the graphs' `z`, or are refused at the first offending one."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.codecs.instances import parse_latents
from service.errors import InvalidError

Array = npt.NDArray[Any]


@given(
    z=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 4), st.just(3)), elements=st.floats(-(2.0**99), 2.0**99, width=32)
    )
)
def test_latents_are_taken_as_they_are(z: Array) -> None:
    for values in (z, z.tolist(), z.astype(">f8")):
        answer = parse_latents(values, 3)
        assert answer.dtype == np.float32
        np.testing.assert_array_equal(answer, z)


@pytest.mark.parametrize(
    ("values", "location"),
    [
        ([], "latents"),
        (None, "latents"),
        ({}, "latents"),
        ([1, 2, 3], "latents[0]"),
        ([[1, 2]], "latents[0]"),
        ([[1, 2, 3], [1, 2, 3, 4]], "latents[1]"),
        ([[1, 2, 3], [1, True, 3]], "latents[1][1]"),
        ([[1, 2, 3], [1, None, 3]], "latents[1][1]"),
        ([[1, 2, 3], [1, 10**400, 0.5]], "latents[1][1]"),
        ([[1, 2, 3], [1, math.inf, 3]], "latents[1][1]"),
        ([[1, 2, 3], [1, 1e39, 3]], "latents[1][1]"),
        (np.array([[1, 2, 3], [1, np.nan, 3]]), "latents[1][1]"),
        (np.array([[1, 2, 3], [1, -1e39, 3]]), "latents[1][1]"),
        (np.zeros((1, 4)), "latents[0]"),
        (np.zeros(3), "latents[0]"),
        (np.zeros((0, 3)), "latents"),
        (np.zeros((1, 3), bool), "latents"),
    ],
)
def test_wrong_latents_are_found(values: object, location: str) -> None:
    with pytest.raises(InvalidError) as info:
        parse_latents(values, 3)
    assert info.value.location == location
