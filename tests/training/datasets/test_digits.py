"""scikit-learn's digits."""

from training.datasets.digits import Digits


def test_digits() -> None:
    dataset = Digits().load(None)
    assert dataset.rows.shape == (1797, 8, 8)
    assert dataset.rows.max() == dataset.input.high == 16  # type: ignore[union-attr]
