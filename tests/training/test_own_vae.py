"""`export_vae`: a VAE of another training as a bundle."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from torch import nn

from service.bundle import read_bundle
from service.engine import OnnxEngine
from service.errors import FileError
from service.scoring import p_values
from training import export_vae
from training.model.likelihoods import LikelihoodError

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "your-own-vae.md"


@pytest.mark.slow
def test_the_guide_is_real(tmp_path: Path) -> None:
    """Its program writes a bundle whose p-values hold on usual pictures and are small on strange ones."""
    (code,) = re.findall(r"```py\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    program = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(GUIDE.parents[2])!r})\n{code}"]
    done = subprocess.run(program, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["models/mine/1"]
    bundle = read_bundle(tmp_path / "models" / "mine" / "1")
    engine = OnnxEngine(bundle.manifest.graphs, bundle.files, "cpu")
    usual = (load_digits().images[1200:] / 16).astype(np.float32)
    chessboard = (np.indices((8, 8)).sum(0) % 2).astype(np.float32)

    def judge(x: np.ndarray) -> np.ndarray:
        elbo = engine.run("elbo", {"x": x, "noise": bundle.calibration["noise"]})["elbo"]
        return p_values(-elbo, bundle.calibration["negative_elbo"])

    assert judge(usual).mean() == pytest.approx(0.5, abs=0.05)
    assert judge(chessboard[None]) == [bundle.manifest.calibration.resolution]
    spread = np.sqrt(np.square(usual - engine.run("decoder", {"z": encode(engine, usual)})["x_mean"]).mean())
    assert spread < usual.std()


def encode(engine: OnnxEngine, x: np.ndarray) -> np.ndarray:
    return engine.run("encoder", {"x": x})["mean"]


@pytest.mark.slow
def test_a_frame_names_the_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.normal(40, 9, 120), "income": rng.normal(2500, 600, 120)})
    frame.loc[::7, "income"] = np.nan
    encoder, decoder = nn.Linear(2, 2), nn.Linear(1, 2)
    place = export_vae(
        encoder, decoder, likelihood="gaussian", data=frame[:60], held_out=frame[60:], out=tmp_path / "models"
    )
    bundle = read_bundle(Path(place))
    assert bundle.manifest.input.features == ("age", "income")
    engine = OnnxEngine(bundle.manifest.graphs, bundle.files, "cpu")
    bounds = engine.run("elbo", {"x": frame.to_numpy()[60:], "noise": bundle.calibration["noise"]})
    assert np.isfinite(bounds["elbo"]).all()


def test_frames_that_differ_are_refused() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0], "c": ["x", "y"]})
    for data, held_out, problem in (
        (frame[["a", "b"]], frame[["b", "a"]], "held_out: the columns b, a; give a, b, as data has them"),
        (frame, frame, "data: cells of dtype object; give the numbers that the encoder takes"),
    ):
        with pytest.raises(FileError) as caught:
            export_vae(nn.Linear(2, 2), nn.Linear(1, 2), likelihood="gaussian", data=data, held_out=held_out)
        assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("encoder", "decoder", "options", "problem"),
    [
        (nn.Linear(3, 4), nn.Linear(2, 3), {"name": "My model"}, "name: 'My model'; give small letters, digits, - and"),
        (nn.Linear(3, 4), nn.Linear(2, 3), {"held_out": np.zeros((3, 3))}, "held_out: 3 rows; give at least 4"),
        (nn.Linear(3, 5), nn.Linear(2, 3), {}, r"encoder: gives \(2, 5\) for 2 rows; give mean and log-variance"),
        (
            nn.Linear(3, 4),
            nn.Linear(2, 4),
            {},
            r"decoder: gives \(2, 4\) for 2 rows; the likelihood takes 3 numbers a row",
        ),
    ],
)
def test_what_does_not_fit_is_named_before_the_export(
    encoder: nn.Module, decoder: nn.Module, options: dict[str, Any], problem: str
) -> None:
    rows = {"data": np.random.default_rng(0).normal(size=(40, 3)), "held_out": np.zeros((9, 3))}
    with pytest.raises(FileError, match=problem):
        export_vae(encoder, decoder, likelihood="gaussian", **(rows | options))


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (np.full((5, 3), np.inf), "[0, 0] = inf is infinite; write NaN where a cell is missing"),
        (np.zeros(5), "shape (5,) is neither a table (rows, columns) nor images"),
        (np.full((5, 3, 3), 2.0), "[0, 0, 0] = 2.0 is not in [0, 1], where floating-point pixels lie"),
        (np.full((5, 3), "x"), "cells of dtype <U1; give the numbers that the encoder takes"),
    ],
)
def test_a_wrong_array_is_called_by_its_argument(wrong: np.ndarray, problem: str) -> None:
    right = np.random.default_rng(0).normal(size=(40, 3))
    for argument in ("data", "held_out"):
        rows = {"data": right, "held_out": right, argument: wrong}
        with pytest.raises(FileError, match="^" + re.escape(f"{argument}: {problem}")):
            export_vae(nn.Linear(3, 4), nn.Linear(2, 3), likelihood="gaussian", **rows)


def test_held_out_rows_are_of_the_kind_of_the_data() -> None:
    rows = {"data": np.zeros((9, 2, 2), np.uint8), "held_out": np.zeros((9, 2, 3), np.uint8)}
    problem = r"held_out: uint8 images of shape \(2, 3\) in \[0, 255\], where data holds uint8 images of shape \(2, 2\)"
    with pytest.raises(FileError, match=problem):
        export_vae(nn.Linear(3, 4), nn.Linear(2, 3), likelihood="gaussian", **rows)


def test_a_likelihood_that_a_name_is_not_enough_for_is_refused() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3))
    encoder, decoder = nn.Linear(3, 4), nn.Linear(2, 6)
    with pytest.raises(LikelihoodError, match="'mixed': give one of gaussian, bernoulli, continuous_bernoulli, or an"):
        export_vae(encoder, decoder, likelihood="mixed", data=rows, held_out=rows)
