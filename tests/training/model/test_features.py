"""What the encoder sees of raw data."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from service.bundle import CategoricalColumn, ImageInput, NumericColumn, TabularInput
from training.model.features import CLIP, ImageFeatures, TableFeatures
from training.model.likelihoods.categorical import Categorical
from training.model.scales import AsinhScale, moments

NAN = math.nan
COLUMNS = TabularInput(
    columns=(
        CategoricalColumn(name="c", categories=("x", "y", "z")),
        NumericColumn(name="a"),
        CategoricalColumn(name="d", categories=(False, True)),
        NumericColumn(name="b"),
    )
)
ROWS = np.array([[0.0, 10, 0, 5], [1, 30, 1, 5], [2, NAN, 0, 5], [NAN, 20, 1, 5]])


def test_table() -> None:
    features = TableFeatures(COLUMNS, ROWS)
    assert features.num_features == 2 + 3 + 2 + 2
    deviation = np.std([10, 30, 20])
    x = np.array([[2, 20 + deviation, 1, 5], [NAN, NAN, NAN, NAN], [0, 20 - 2 * deviation, 0, 7]])
    seen = features(torch.from_numpy(x))
    assert seen.dtype == torch.float32
    # a, b | c one-hot | d one-hot | c missing, a missing: only columns that missed cells in training say so.
    expected = [
        [1, 0, 0, 0, 1, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 1, 1],
        [-2, 2, 1, 0, 0, 1, 0, 0, 0],
    ]
    np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_training_rows_are_standardised() -> None:
    data = TabularInput(columns=(NumericColumn(name="a"), NumericColumn(name="b")))
    rows = np.random.default_rng(0).normal([1e6, -3e-5], [2.0, 1e-7], (500, 2))
    seen = TableFeatures(data, rows)(torch.from_numpy(rows)).double()
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(seen.std(0, correction=0), 1, atol=1e-5)


@pytest.mark.parametrize(("value", "seen"), [(1e300, CLIP), (-1e300, -CLIP), (math.inf, CLIP), (NAN, 0.0)])
def test_outliers_are_clipped(value: float, seen: float) -> None:
    data = TabularInput(columns=(NumericColumn(name="a"),))
    features = TableFeatures(data, np.array([[0.0], [1.0]]))
    assert features(torch.tensor([[value]], dtype=torch.float64)).item() == seen


def test_constant_and_half_empty_columns() -> None:
    mean, deviation = moments(np.array([[3.0, 1], [3, NAN], [3, 5], [3, NAN]]))
    assert mean.dtype == deviation.dtype == torch.float64
    assert mean.tolist() == [3, 3]
    assert deviation.tolist() == [1, 2]


def test_sentinels_and_outliers_do_not_set_a_column_s_scale() -> None:
    rng = np.random.default_rng(4)
    income = rng.normal(2500, 600, 400)
    with_sentinels = np.concatenate([income, [9999999999] * 3])
    sparse = np.concatenate([np.zeros(400), [1e6, 2e6, 3e6]])
    mean, deviation = moments(np.column_stack([with_sentinels, sparse]))
    assert mean[0] == pytest.approx(income.mean())
    assert deviation[0] == pytest.approx(income.std())
    assert deviation[1] == pytest.approx(sparse.std())  # Nothing but these cells says what is usual.


def test_numbers_whose_squares_no_float_holds_have_a_scale() -> None:
    column = np.random.default_rng(5).normal(3, 1, 400)
    mean, deviation = moments(np.column_stack([column, column * 2.0**990, column * 2.0**-1000]))
    assert np.ldexp(mean.numpy(), [0, -990, 1000]).tolist() == [mean[0]] * 3
    assert np.ldexp(deviation.numpy(), [0, -990, 1000]).tolist() == [deviation[0]] * 3


def test_equal_numbers_have_no_deviation_whatever_their_rounding() -> None:
    _, deviation = moments(np.full((997, 3), [0.1, 1e-30, 1e12 / 3]))
    assert deviation.tolist() == [1, 1, 1]


def test_only_categories() -> None:
    data = TabularInput(columns=(COLUMNS.columns[0],))
    features = TableFeatures(data, np.array([[0.0], [1.0]]))
    assert features(torch.tensor([[1.0], [NAN]], dtype=torch.float64)).tolist() == [[0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("likelihood", [False, True])
def test_more_categories_take_no_more_operations(likelihood: bool) -> None:
    counted = [_operations(columns, likelihood) for columns in (6, 60)]
    assert counted[0] == counted[1]


def _operations(columns: int, likelihood: bool) -> int:
    """How many operations the encoder's inputs, or the density, of so many columns of 2 and 3 categories take."""
    named = tuple(CategoricalColumn(name=str(i), categories=("x", "y", "z")[: 2 + i % 2]) for i in range(columns))
    data, rows = TabularInput(columns=named), np.zeros((4, columns))
    with _Counted() as counted:
        if likelihood:
            density = Categorical(data, rows)
            counted.operations = 0
            density.log_prob(torch.zeros(4, density.num_params), torch.from_numpy(rows))
        else:
            features = TableFeatures(data, rows)
            counted.operations = 0
            features(torch.from_numpy(rows))
    return counted.operations


class _Counted(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        return func(*args, **(kwargs or {}))


def test_the_end_of_a_day_is_near_its_beginning() -> None:
    data = TabularInput(columns=(NumericColumn(name="hour", period=24), NumericColumn(name="age"), COLUMNS.columns[0]))
    features = TableFeatures(data, np.array([[0.0, 1, 0], [12, 5, 1], [NAN, 3, 2]]))
    assert features.num_features == 7
    seen = features(torch.tensor([[0, 3, 0], [6, 3, 0], [24, 3, 0], [NAN, 3, 0]], dtype=torch.float64))
    np.testing.assert_allclose(seen[:, 1:3], [[0, 1], [1, 0], [0, 1], [0, 0]], atol=1e-6)
    assert seen[:, -1].tolist() == [0, 0, 0, 1]
    assert features.units(torch.tensor([[0.0, 3, 0]])).tolist()[0] == [1, pytest.approx(math.sqrt(8 / 3)), 1]


@pytest.mark.parametrize(("dtype", "low", "high"), [("uint8", 0, 255), ("uint8", 3, 19), ("float32", -1, 3)])
def test_images_go_from_black_to_white(dtype: str, low: float, high: float) -> None:
    data = ImageInput.model_validate({"shape": (1, 2, 3), "dtype": dtype, "low": low, "high": high})
    features = ImageFeatures(data)
    assert features.num_features == 6
    x = np.array([low, high, (low + high) // 2, low, high, low], dtype).reshape(1, 1, 2, 3)
    seen = features(torch.from_numpy(x))
    assert seen.dtype == torch.float32
    middle = ((low + high) // 2 - low) / (high - low)
    np.testing.assert_allclose(seen, [[0, 1, middle, 0, 1, 0]], rtol=1e-6)


def test_an_asinh_scale_is_inverted_and_its_slope_is_its_derivative() -> None:
    rng = np.random.default_rng(2)
    rows = np.column_stack([np.exp(3 * rng.standard_normal(500)), np.r_[np.zeros(490), np.arange(10)], np.full(500, 7)])
    rows[:50, 0] = NAN
    scale = AsinhScale(rows)
    quarter, half, three_quarters = np.nanpercentile(rows[:, 0], (25, 50, 75))
    assert scale.centre.tolist() == pytest.approx([half, 0, 7])
    assert scale.width.tolist() == pytest.approx([3 * (three_quarters - quarter) / 1.349, 3 * rows[:, 1].std(), 3])
    x = torch.from_numpy(rows[50:]).requires_grad_()
    u = scale(x)
    torch.testing.assert_close(u, torch.asinh((x - scale.centre) / scale.width), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scale.inverse(u), x)
    (slope,) = torch.autograd.grad(u.sum(), x)
    # The derivative of sign · log(|t| + √(t² + 1)) is 0 at the median itself, where the sign is.
    there = x != scale.centre
    torch.testing.assert_close(scale.log_slope(x)[there], slope.log()[there])


def test_the_encoder_sees_outliers_on_an_asinh_scale() -> None:
    data = TabularInput(columns=(NumericColumn(name="a"), COLUMNS.columns[0]))
    rows = np.column_stack([np.random.default_rng(3).standard_normal(400), np.arange(400) % 3])
    features = TableFeatures(data, rows, asinh=True)
    seen = features(torch.tensor([[0.0, 1], [20, 1], [1e300, 1], [math.inf, NAN], [NAN, 0]], dtype=torch.float64))
    assert 0.0 < seen[1, 0] < CLIP
    assert seen[2:4, 0].tolist() == [CLIP, CLIP]
    assert seen[4, 0] == 0.0
    far = torch.tensor([[0.0, 1], [1e3, 1], [-1e6, 1]], dtype=torch.float64, requires_grad=True)
    units = features.units(far)
    assert units.tolist()[0] == [pytest.approx(rows[:, 0].std(), rel=0.1), 1]
    standard = features.asinh(far[:, :1]) / features.scale  # type: ignore[misc]
    (slope,) = torch.autograd.grad(standard.sum(), far)
    np.testing.assert_allclose((units * slope)[:, 0].tolist(), 1)
