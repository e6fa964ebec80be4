"""Inputs of model cards: digits, a table and colour pictures."""

import numpy as np
import pytest

from service.bundle import (
    CategoricalColumn,
    NumericColumn,
    TabularInput,
    read_bundle,
)
from service.engine import OnnxEngine
from service.storage import DEFAULT_REPOSITORY
from tests.training.card.cards import HOSTILE, Untrained, card_inputs, untrained
from tests.training.kinds import KINDS
from training.card import CardInputs
from training.datasets import SplitRecipe, split
from training.datasets.digits import Digits


@pytest.fixture(scope="session")
def digits_inputs() -> CardInputs:
    """The embedded bundle and its own test rows; the first has a white pixel where no digit has ink."""
    bundle = read_bundle(DEFAULT_REPOSITORY / "digits" / "1")
    engine = OnnxEngine(bundle.manifest.graphs, bundle.files, "cpu")
    dataset = Digits().load(None)
    test = dataset.rows[split(dataset, SplitRecipe()).test].copy()
    test[0, 3, 0] = 16
    return card_inputs(bundle.manifest, engine, bundle.calibration, test)


@pytest.fixture(scope="session")
def table() -> Untrained:
    """A table with hostile names, missing cells, a column of nothing else, and a wild cell in the fourth test row."""
    rng = np.random.default_rng(0)
    columns = (
        NumericColumn(name="height"),
        CategoricalColumn(name=HOSTILE, categories=("plain", HOSTILE, "rare")),
        NumericColumn(name="constant"),
        NumericColumn(name="never seen"),
        NumericColumn(name="体重 $\\frac{1}{"),
    )
    rows = np.column_stack(
        [
            rng.normal(170, 10, 400),
            rng.integers(0, 2, 400),
            np.full(400, 7.0),
            np.full(400, np.nan),
            rng.normal(70, 12, 400),
        ]
    )
    rows[rng.random(400) < 0.2, 0] = np.nan
    rows[6, 4] = 4000.0
    return untrained(TabularInput(columns=columns), rows, "mixed", latent_size=2)


@pytest.fixture(scope="session")
def table_inputs(table: Untrained) -> CardInputs:
    return table.inputs


@pytest.fixture(scope="session")
def colour_inputs() -> CardInputs:
    """Colour images and a single latent, of a bundle that has the graphs alone that every card needs."""
    kind = KINDS["colour levels"]
    return untrained(
        kind.data, kind.rows, "gaussian_shared", 1, graphs=("encoder", "decoder", "elbo", "explain")
    ).inputs


@pytest.fixture(scope="session", params=["digits_inputs", "table_inputs", "colour_inputs"])
def inputs(request: pytest.FixtureRequest) -> CardInputs:
    found: CardInputs = request.getfixturevalue(request.param)
    return found
