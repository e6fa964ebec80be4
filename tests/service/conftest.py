"""Fixtures of the service's tests: bundles on disk, arrays to send, and servers, some of which must not start."""

import datetime as dt
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import onnx.parser
import pytest

from service.bundle import Array, Bundle, describe_files, read_bundle, write_arrays, write_bundle
from service.engine import OnnxEngine
from service.manifest import (
    CALIBRATION,
    GOLDEN,
    Calibration,
    CategoricalColumn,
    Manifest,
    NumericColumn,
    TabularInput,
    signature,
)
from service.repository import DEFAULT_REPOSITORY
from tests.conftest import Serve

Refused = Callable[..., subprocess.CompletedProcess[str]]

TABLE_GRAPHS = {
    "encoder": """
        <ir_version: 10, opset_import: ["" : 20]>
        encoder (double[batch, 2] x) => (float[batch, 2] mean, float[batch, 2] log_variance) {
            zero = Constant <value = double {0.0}> ()
            missing = IsNaN (x)
            filled = Where (missing, zero, x)
            mean = Cast <to = 1> (filled)
            log_variance = Sub (mean, mean)
        }""",
    "decoder": """
        <ir_version: 10, opset_import: ["" : 20]>
        decoder (float[batch, 2] z) => (double[batch, 2] x_mean) {
            zero = Constant <value = float {0.0}> ()
            numeric = Constant <value = double[2] {1.0, 0.0}> ()
            categorical = Constant <value = double[2] {0.0, 1.0}> ()
            wide = Cast <to = 11> (z)
            positive = Greater (z, zero)
            code = Cast <to = 11> (positive)
            numbers = Mul (wide, numeric)
            codes = Mul (code, categorical)
            x_mean = Add (numbers, codes)
        }""",
    "elbo": """
        <ir_version: 10, opset_import: ["" : 20]>
        elbo (double[batch, 2] x, float[draws, 2] noise) => (
            double[batch] elbo, double[batch] log_likelihood, double[batch] kl, double[batch] standard_error,
            double[batch] log_evidence, double[batch] ess
        ) {
            zero = Constant <value = double {0.0}> ()
            columns = Constant <value = int64[1] {1}> ()
            missing = IsNaN (x)
            filled = Where (missing, zero, x)
            squares = Mul (filled, filled)
            energy = ReduceSum <keepdims = 0> (squares, columns)
            log_likelihood = Neg (energy)
            kl = ReduceSum <keepdims = 0> (filled, columns)
            elbo = Sub (log_likelihood, kl)
            narrow = ReduceMean <keepdims = 0> (noise)
            shift = Cast <to = 11> (narrow)
            log_evidence = Add (elbo, shift)
            standard_error = Abs (kl)
            nothing = Mul (kl, zero)
            ess = Exp (nothing)
        }""",
}
"""A toy model of a table with a number and a category: no good at anything, and easy to compute by hand."""


def table_files(num_draws: int = 4) -> tuple[Manifest, dict[str, bytes]]:
    """A bundle of a table, as someone with a model from elsewhere would make it."""
    columns = (NumericColumn(name="age"), CategoricalColumn(name="colour", categories=("red", "blue")))
    data = TabularInput(columns=columns)
    graphs = {name: signature(name, data, 2) for name in TABLE_GRAPHS}
    files = {f"{name}.onnx": onnx.parser.parse_model(text).SerializeToString() for name, text in TABLE_GRAPHS.items()}
    noise = np.linspace(-1, 1, num_draws * 2, dtype=np.float32).reshape(num_draws, 2)
    x = np.array([[1.5, 0.0], [np.nan, 1.0], [-2.0, np.nan]])
    inputs: dict[str, dict[str, Array]] = {
        "encoder": {"x": x},
        "decoder": {"z": np.array([[1.0, 2.0], [0.5, -1.0]], np.float32)},
        "elbo": {"x": x, "noise": noise},
    }
    engine = OnnxEngine(graphs, files, "cpu")
    golden = {
        f"{graph}.{name}": array
        for graph, given in inputs.items()
        for name, array in (given | engine.run(graph, given)).items()
    }
    held_out = np.sort(np.random.default_rng(0).normal(size=99))
    files |= {
        CALIBRATION: write_arrays({"noise": noise, "negative_elbo": held_out}),
        GOLDEN: write_arrays(golden),
    }
    manifest = Manifest(
        format_version="1.0",
        name="people",
        version=1,
        created=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        input=data,
        latent_size=2,
        likelihood="toy",
        prior="toy",
        num_draws=num_draws,
        seed=7,
        scores=("negative_elbo",),
        default_score="negative_elbo",
        calibration=Calibration.of(99),
        tolerance=1e-3,
        graphs=graphs,
        files=describe_files(files),
    )
    return manifest, files


@pytest.fixture(scope="session")
def digits_bundle() -> Bundle:
    """The embedded default bundle."""
    return read_bundle(DEFAULT_REPOSITORY / "digits" / "1")


@pytest.fixture(scope="session")
def several_models(tmp_path_factory: pytest.TempPathFactory, digits_bundle: Bundle) -> Path:
    """A repository of a table's model and of two versions of the digits."""
    folder = tmp_path_factory.mktemp("several")
    for version in (1, 2):
        manifest = digits_bundle.manifest.model_copy(update={"version": version})
        write_bundle(folder, manifest, digits_bundle.files)
    write_bundle(folder, *table_files())
    return folder


@pytest.fixture
def table() -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the files of a table's bundle, to be changed and written."""
    return table_files()


@pytest.fixture
def table_bundle(tmp_path: Path) -> Path:
    """The folder of a fresh table's bundle, to be damaged: `<tmp_path>/people/1`."""
    return write_bundle(tmp_path, *table_files())


@pytest.fixture(scope="session")
def refused() -> Refused:
    """Start a server that must not start: what the process said, and its exit status."""

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LOWERBOUND_")}
        command = [sys.executable, "-m", "service", "--port", "0", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)

    return start


@pytest.fixture(scope="session")
def x() -> Array:
    return np.random.default_rng(0).integers(0, 17, (5, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="session")
def latent_size(digits_bundle: Bundle) -> int:
    return digits_bundle.manifest.latent_size


@pytest.fixture(scope="session")
def z(latent_size: int) -> Array:
    return np.random.default_rng(1).standard_normal((5, latent_size), dtype=np.float32)


@pytest.fixture(scope="session")
def several(serve: Serve, several_models: Path) -> Iterator[httpx.Client]:
    with serve("--models", str(several_models), "--lanes", "1") as client:
        yield client


@pytest.fixture(scope="session")
def small(serve: Serve) -> Iterator[httpx.Client]:
    """A server that takes little: 3,000 bytes, 4,096 row-draws, 1,024 draws."""
    with serve("--max-body", "3000", "--max-queue", "4096", "--max-draws", "1024", "--lanes", "1") as client:
        yield client
