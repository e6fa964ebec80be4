"""The default score is the one that best tells rows from rearranged ones, if not by chance."""

from typing import Any

import numpy as np
import pytest

from tests.training.kinds import KINDS
from training.evaluation.corruptions import CORRUPTIONS
from training.evaluation.score_selection import choose, sensitivities


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, all_ in CORRUPTIONS.items() for name in all_])
def test_rearrangements_are_of_the_rows_own_values(kind: str, name: str) -> None:
    shapes: list[tuple[int, ...]] = [(28, 28), (8, 8), (13, 10, 3)] if kind == "image" else [(5,), (20,)]
    for shape in shapes:
        x = np.random.default_rng(0).integers(0, 256, (20, *shape)).astype(np.float32)
        once, again = (CORRUPTIONS[kind][name](x, np.random.default_rng(1)) for _ in range(2))
        assert once.shape == x.shape
        assert once.dtype == x.dtype
        np.testing.assert_array_equal(once, again)
        assert all(not np.array_equal(before, after) for before, after in zip(x, once, strict=True))
        assert np.isin(once, x).all()
        if kind == "tabular":
            assert all(np.isin(after, before).all() for before, after in zip(x.T, once.T, strict=True))


def test_the_most_sensitive_score_is_chosen() -> None:
    example = KINDS["numbers"]
    rng = np.random.default_rng(0)
    first = rng.standard_normal(400)
    rows = np.stack([first, first + 0.1 * rng.standard_normal(400), first + 0.1 * rng.standard_normal(400)], 1)

    def score(x: Any) -> dict[str, Any]:
        return {"blind": np.zeros(len(x)), "seeing": np.ptp(x, axis=1), "wrong": -np.ptp(x, axis=1)}

    found = sensitivities(score, example.data, rows, seed=0)
    assert found["blind"] == 0.5
    assert found["seeing"] > 0.9
    assert found["wrong"] == pytest.approx(1 - found["seeing"])
    assert choose(found, len(rows), example.data) == "seeing"
    assert choose({"first": 0.7, "second": 0.7}, 100, example.data) == "first"
    # A standard error of 100 rows is 0.046 at the most, of 10,000 rows 0.0102.
    assert choose({"first": 0.7, "second": 0.73}, 100, example.data) == "first"
    assert choose({"first": 0.7, "second": 0.73}, 10_000, example.data) == "second"
    # Nine rows without a mistake are expected to make one in eleven: the standard error is 0.096, not 0.
    assert choose({"first": 0.95, "second": 1.0}, 9, example.data) == "first"
    assert choose({"first": 0.90, "second": 1.0}, 9, example.data) == "second"
    assert sensitivities(score, example.data, rows, seed=0) == found


def test_typicality_is_no_default_of_tables() -> None:
    found = {"negative_elbo": 0.7, "negative_log_evidence": 0.8, "typicality": 0.9}
    assert choose(found, 1000, KINDS["grey levels"].data) == "typicality"
    assert choose(found, 1000, KINDS["numbers"].data) == "negative_log_evidence"
