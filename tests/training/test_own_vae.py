"""`export_vae`: a VAE of another training as a bundle."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from service.bundle import read_bundle
from service.engine import OnnxEngine
from service.errors import FileError
from service.scoring import p_values
from training import export_vae
from training.export.onnx import ExportError
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


class Pictures(nn.Module):
    """A VAE of pictures as tutorials have it: one class, channels first, a linear decoder."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.to_moments = nn.Sequential(nn.Conv2d(channels, 4, 3, 2, 1), nn.Dropout(), nn.Flatten(), nn.Linear(24, 4))
        self.to_pixels = nn.Linear(2, channels * 4 * 6)

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        return list(self.to_moments(x).chunk(2, 1))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.to_pixels(z)).view(-1, self.channels, 4, 6)


class Part(nn.Module):
    """A module of a user around a VAE that it shares with another one."""

    def __init__(self, vae: Pictures, method: str) -> None:
        super().__init__()
        self.vae, self.method = vae, method

    def forward(self, x: torch.Tensor) -> Any:
        return getattr(self.vae, self.method)(x)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_a_vae_of_one_class_with_channels_first(tmp_path: Path, channels: int) -> None:
    torch.manual_seed(0)
    vae, x = Pictures(channels), torch.rand(60, channels, 4, 6)
    encoder, decoder = (vae.encode, vae.decode) if channels == 1 else (Part(vae, "encode"), Part(vae, "decode"))
    place = export_vae(encoder, decoder, likelihood="gaussian", data=x[:30], held_out=x[30:], out=tmp_path / "models")
    assert vae.training
    assert vae.to_moments[1].training
    vae.eval()
    with torch.no_grad():
        mean, log_variance = vae.encode(x)
        pixels = vae.decode(mean)
    bundle = read_bundle(Path(place))
    assert bundle.manifest.input.shape == ((4, 6) if channels == 1 else (4, 6, 3))
    assert bundle.manifest.provenance.recipe["encoder"] == ("Pictures.encode" if channels == 1 else "Part")
    engine = OnnxEngine(bundle.manifest.graphs, bundle.files, "cpu")
    rows = np.moveaxis(x.numpy(), 1, 3).reshape(-1, *bundle.manifest.input.shape)
    answer = engine.run("encoder", {"x": rows})
    np.testing.assert_allclose(answer["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(answer["log_variance"], log_variance, rtol=1e-5, atol=1e-6)
    decoded = engine.run("decoder", {"z": answer["mean"]})["x_mean"].reshape(-1, 4, 6, channels)
    np.testing.assert_allclose(decoded, np.moveaxis(pixels.numpy(), 1, 3), rtol=1e-5, atol=1e-6)


class Corner(nn.Module):
    """An encoder that sees two values of a picture alone."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = x.flatten(1)[:, :2]
        return z, torch.zeros_like(z)


class Branching(nn.Module):
    """An encoder whose way depends on the values of all rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :2] if x.sum() > 0 else x[:, 1:]


def test_a_network_that_pytorch_cannot_translate_is_named(tmp_path: Path) -> None:
    x = torch.rand(40, 3)
    with pytest.raises(
        ExportError, match=r"^\w+\.onnx: PyTorch cannot translate this .*: Could not guard on data-depen"
    ):
        export_vae(Branching(), nn.Linear(1, 3), likelihood="gaussian", data=x[:20], held_out=x[20:], out=tmp_path)
    assert not list(tmp_path.iterdir())


class Shade(nn.Module):
    """A decoder of pictures of one level."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(z[:, :1]).expand(-1, 256 * 256 * 3).view(-1, 256, 256, 3)


@pytest.mark.slow
def test_of_large_pictures_few_are_golden(tmp_path: Path) -> None:
    """The service computes golden rows in two gigabytes."""
    x = torch.rand(20, 256, 256, 3)
    place = export_vae(Corner(), Shade(), likelihood="gaussian", data=x[:8], held_out=x[8:], out=tmp_path)
    golden = read_bundle(Path(place)).golden["refine"]
    assert (len(golden["x"]), len(golden["noise"])) == (2, 5)


class Answering(nn.Module):
    """A network of a library that answers with a mapping, or with what a test gives it."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer
        self.moments = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> Any:
        return self.answer(self.moments(x))


@pytest.mark.slow
def test_answers_may_be_mappings_and_encoders_may_take_pictures_flat(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((40, 1, 1, 3))
    encoder = Answering(lambda moments: {"embedding": moments[:, :2], "log_covariance": moments[:, 2:]})
    decoder = Answering(lambda pixels: {"reconstruction": pixels[:, :3]})
    decoder.moments = nn.Linear(2, 4)
    export_vae(
        encoder, decoder, likelihood="gaussian", data=rows[:20, 0], held_out=rows[20:, 0], out=tmp_path / "models"
    )
    (bundle,) = (read_bundle(path) for path in (tmp_path / "models" / "mine").iterdir())
    x = torch.from_numpy(rows).float().flatten(1)
    answer = OnnxEngine(bundle.manifest.graphs, bundle.files, "cpu").run("encoder", {"x": x.numpy()[:, None]})
    np.testing.assert_allclose(answer["mean"], encoder.moments(x)[:, :2].detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("encoder", "problem"),
    [
        (
            Answering(lambda moments: (moments, moments[:, :2], moments[:, 2:])),
            r"gives \(2, 4\) and \(2, 2\) and \(2, 2\)",
        ),
        (Answering(lambda moments: (moments[:, :1], moments[:, :3])), r"gives \(2, 1\) and \(2, 3\) for 2 rows"),
        (Answering(lambda moments: (moments, 1.0)), r"gives \(2, 4\) and float for 2 rows"),
        (lambda x: x, "encoder: a function; give a module, or a method of one"),
        (nn.Linear(3, 4, device="meta"), "encoder: its weights are on meta; move them to the CPU first"),
    ],
)
def test_what_is_no_encoder_is_named(encoder: Any, problem: str) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.raises(FileError, match=problem):
        export_vae(encoder, nn.Linear(2, 3), likelihood="gaussian", data=rows, held_out=rows)


def test_an_encoder_that_does_not_take_the_rows_says_what_it_was_given() -> None:
    x = np.zeros((9, 3, 4, 6), np.uint8)
    with pytest.raises(RuntimeError) as caught:
        export_vae(nn.Linear(5, 4), nn.Linear(2, 72), likelihood="gaussian", data=x, held_out=x)
    assert caught.value.__notes__ == ["The encoder was given x of shape (2, 3, 4, 6), as `data` has its rows, and flat"]


def test_a_decoder_with_other_channels_than_the_data_is_refused() -> None:
    vae = Pictures(3)
    rows = np.zeros((9, 4, 6, 3), np.uint8)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(72, 4))
    with pytest.raises(FileError, match=r"decoder: gives \(2, 3, 4, 6\) for 2 rows; give \(2, 4, 6, 3\), or have"):
        export_vae(flat, vae.decode, likelihood="gaussian", data=rows, held_out=rows)


def test_probabilities_for_logits_are_refused() -> None:
    vae = Pictures(1)
    rows = np.random.default_rng(0).integers(0, 2, (40, 1, 4, 6)).astype(np.float32)
    for likelihood in ("bernoulli", "continuous_bernoulli"):
        with pytest.raises(FileError, match=r"decoder: gives numbers in \[0, 1\] alone, .* takes logits; leave"):
            export_vae(vae.encode, vae.decode, likelihood=likelihood, data=rows, held_out=rows)


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
