"""The oracle's models, exported with PyTorch and written without, behind one real server."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from service.bundle import ImageInput, NumericColumn, TabularInput
from tests.conftest import Serve
from tests.oracle import bring_your_own, trained
from tests.oracle.linear_gaussian import Array, LinearGaussian
from training.model import VAE

ROWS = 3
NUM_DRAWS = 64

COLUMNS = LinearGaussian.make(
    bias=np.array([-40.0, 0.0, 3.0, 1000.0, 0.02]),
    sigma=np.array([2.0, 0.5, 0.1, 30.0, 0.001]),
    strengths=np.array([3.0, 1.5]),
)
TABLE = TabularInput(columns=tuple(NumericColumn(name=f"x{i}") for i in range(5)))

PIXELS = LinearGaussian.make(
    bias=np.linspace(2, 9, 12), sigma=np.linspace(0.5, 1.5, 12), strengths=np.array([2.0, 1.0, 0.5]), seed=1
)
IMAGE = ImageInput(shape=(4, 3), dtype="float32", low=-10, high=30)

MODELS = {
    "table": (COLUMNS, TABLE),
    "image-wrong": (PIXELS.with_wrong_encoder(), IMAGE),
    "brought": (COLUMNS, TABLE),
    "brought-wrong": (COLUMNS.with_wrong_encoder(), TABLE),
}


@dataclass(frozen=True)
class Served:
    """A served model beside its closed form.

    Attributes:
        name: Of the model.
        truth: The closed form.
        shape: Of an instance.
        x: Rows in data units, (ROWS, D), exactly as the service gets them.
        vae: The original, where the model was made with PyTorch.
        client: Of a server with its paths.
    """

    name: str
    truth: LinearGaussian
    shape: tuple[int, ...]
    x: Array
    vae: VAE | None
    client: httpx.Client

    def post(self, path: str, body: dict[str, Any], **query: Any) -> dict[str, Any]:
        """The answer's fields, numbers as arrays (null as NaN)."""
        answer = self.client.post(f"/models/{self.name}/{path}", json=body, params=query)
        assert answer.is_success, answer.text
        return {field: plain(values) for field, values in answer.json().items()}

    def about(self, path: str, x: Array | None = None, **query: Any) -> dict[str, Any]:
        """The answer about the rows `x`, or the model's own."""
        return self.post(path, {"instances": (self.x if x is None else x).reshape(-1, *self.shape).tolist()}, **query)


def plain(values: list[Any]) -> Array:
    """Records or nested lists as float64."""
    if isinstance(values[0], dict):
        values = [list(record.values()) for record in values]
    return np.array(values, np.float64)


@pytest.fixture(scope="session")
def oracle_vaes() -> dict[str, VAE]:
    torch.set_num_threads(1)  # Another test process has the other core.
    return {
        name: trained.linear_vae(truth, data, _rows(truth, data, 1000))
        for name, (truth, data) in MODELS.items()
        if not name.startswith("brought")
    }


@pytest.fixture(scope="session")
def oracle_repository(oracle_vaes: dict[str, VAE], tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("oracle")
    for name, (truth, data) in MODELS.items():
        rows = _rows(truth, data, 200)
        if name in oracle_vaes:
            trained.write(repository, name, oracle_vaes[name], data, rows, NUM_DRAWS)
        else:
            weights = {
                "W": truth.weight.T,
                "b": truth.bias,
                "sigma": truth.sigma,
                "A": truth.slope.T,
                "a": truth.offset,
                "s": np.sqrt(truth.variance),
            }
            bring_your_own.write(repository, name, weights, rows, NUM_DRAWS)
    return repository


@pytest.fixture(scope="session")
def oracle_client(oracle_repository: Path, serve: Serve) -> Iterator[httpx.Client]:
    limits = ("--max-draws", str(2**16), "--max-queue", str(2**21))
    with serve("--models", str(oracle_repository), *limits, "--device", "cpu") as client:
        yield client


@pytest.fixture(params=MODELS)
def served(request: pytest.FixtureRequest, oracle_client: httpx.Client, oracle_vaes: dict[str, VAE]) -> Served:
    truth, data = MODELS[request.param]
    x = _rows(truth, data, ROWS, seed=7).reshape(ROWS, -1).astype(np.float64)
    return Served(request.param, truth, data.shape, x, oracle_vaes.get(request.param), oracle_client)


def _rows(truth: LinearGaussian, data: ImageInput | TabularInput, rows: int, seed: int = 0) -> Array:
    return truth.sample(rows, seed).astype(data.dtype).reshape(rows, *data.shape)
