"""Runs of the trainer as a user starts them, shared by the tests of what they leave behind."""

import io
import logging
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch

from service.bundle import NumericColumn, TabularInput
from service.cli import main
from tests.oracle.linear_gaussian import LinearGaussian
from training.model import VAE, ModelRecipe
from training.model.build import build

SOURCE = LinearGaussian.make(
    bias=np.array([-40.0, 0.0, 3.0, 1000.0]),
    sigma=np.array([2.0, 0.5, 0.1, 30.0]),
    strengths=np.array([3.0, 1.5]),
)
SCHEMA = TabularInput(columns=tuple(NumericColumn(name=f"x{i}") for i in range(4)))
TRAIN = SOURCE.sample(2000, seed=1)
L = 2
ROWS = 6000
EPOCHS = 5

ARGUMENTS = (
    *("--fit.epochs", str(EPOCHS), "--fit.batch_size", "16", "--fit.warmup_epochs", "3"),
    *("--model.widths", "[32,32]", "--model.latent_size", "2", "--bound.num_draws", "8"),
)


QUICK = (
    *("--fit.epochs", "2", "--fit.warmup_epochs", "0", "--bound.num_draws", "4"),
    *("--model.widths", "[32,32]", "--model.latent_size", "2"),
)
"""The same networks, and so the same graphs, trained for a moment on `few_rows`."""


@pytest.fixture(scope="session", autouse=True)
def _calm_torch() -> None:
    """No threads, which would only wait for one another on networks this small, and no compiler's trace in the log."""
    torch.set_num_threads(1)
    logging.getLogger("torch.__trace").propagate = False


def new_vae(latent_size: int = L, likelihood: str = "gaussian") -> VAE:
    """An untrained model of `SOURCE`."""
    recipe = ModelRecipe(widths=(32,), latent_size=latent_size, likelihood=likelihood)
    return build(recipe, SCHEMA, TRAIN, seed=0)


def start(*arguments: str, folder: Path, out: str | None = None, **settings: str) -> subprocess.Popen[str]:
    """`python -m training` with these arguments and variables, its models (if not elsewhere) and runs in `folder`."""
    command = [sys.executable, "-m", "training", *arguments]
    places = ["--out", out or str(folder / "models"), "--runs", str(folder / "runs")]
    return subprocess.Popen(
        [*command, *places],
        # A shell starts background jobs deaf to Ctrl-C, and children inherit it; a person's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - nothing but this
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"} | settings,
        cwd=Path(__file__).parents[2],
    )


def run(*arguments: str, folder: Path, out: str | None = None, **settings: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a whole run."""
    with start(*arguments, folder=folder, out=out, **settings) as process:
        output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def run_here(*arguments: str, folder: Path, out: str | None = None) -> tuple[int, str, str]:
    """The same in this process, which has PyTorch imported already."""
    output, errors = io.StringIO(), io.StringIO()
    places = ["--out", out or str(folder / "models"), "--runs", str(folder / "runs")]
    with redirect_stdout(output), redirect_stderr(errors):
        status = main(["train", *arguments, *places])
    return status, output.getvalue(), errors.getvalue()


@pytest.fixture(scope="session")
def source_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `.npy` table drawn from `SOURCE`."""
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, SOURCE.sample(ROWS, seed=0))
    return path


@pytest.fixture(scope="session")
def few_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small table of the same source."""
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, SOURCE.sample(400, seed=2))
    return path


@pytest.fixture(scope="session")
def uninterrupted(source_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run of the recipe `arrays` on `source_rows`: runs/rows/1 and models/rows/1."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    status, output, errors = run("arrays", "--data", str(source_rows), *ARGUMENTS, folder=folder)
    assert status == 0, errors
    assert output.strip() == str(folder / "models" / "rows" / "1")
    return folder
