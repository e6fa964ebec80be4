"""The oracle's models as the trainer would have them: PyTorch modules set to the closed form, exported to bundles."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from service.bundle import (
    CALIBRATION,
    FORMAT_VERSION,
    GOLDEN,
    Calibration,
    ImageInput,
    Manifest,
    TabularInput,
    describe_files,
    write_arrays,
    write_bundle,
)
from service.engine import OnnxEngine
from service.scoring import conformal, noise
from tests.oracle.linear_gaussian import Array, LinearGaussian
from training.evaluation.bounds import score_columns
from training.export.graphs import graph_modules
from training.export.onnx import TOLERANCE, export_graphs
from training.model import VAE
from training.model.features import ImageFeatures, TableFeatures
from training.model.likelihoods.gaussian import Gaussian
from training.model.priors import StandardNormal
from training.publish import golden_rows

REFINE = 3
"""Steps of the calibrated regret."""


def linear_vae(truth: LinearGaussian, data: ImageInput | TabularInput, rows: Array) -> VAE:
    """A VAE of linear networks that is the oracle; `rows` only set its scales, as training rows would."""
    features: ImageFeatures | TableFeatures
    if isinstance(data, ImageInput):
        features, seen_from, seen_scale = ImageFeatures(data), np.array(data.low), np.array(data.high - data.low)
    else:
        features = TableFeatures(data, rows)
        seen_from, seen_scale = features.location.numpy(), features.scale.numpy()
    likelihood = Gaussian(data, rows)
    size, latent_size = truth.weight.shape
    shift, scale = likelihood.location.numpy(), likelihood.scale.numpy()

    encoder, decoder = nn.Linear(size, 2 * latent_size), nn.Linear(latent_size, size)
    slope = np.concatenate([truth.slope * seen_scale, np.zeros_like(truth.slope)])
    centre = truth.slope @ np.broadcast_to(seen_from, size) + truth.offset
    with torch.no_grad():
        _set(encoder.weight, slope)
        _set(encoder.bias, np.concatenate([centre, np.log(truth.variance)]))
        _set(decoder.weight, truth.weight / scale[:, None])
        _set(decoder.bias, (truth.bias - shift) / scale)
        # The inverse of σ = floor + e^free.
        _set(likelihood.free_log_sigma, np.log(truth.sigma / scale - np.exp(likelihood.log_floor.numpy())))
    return VAE(features, encoder, decoder, likelihood, StandardNormal(latent_size, 1)).eval()


def _set(parameter: Tensor, values: Array) -> None:
    assert parameter.shape == values.shape
    parameter.copy_(torch.from_numpy(values))


def write(repository: Path, name: str, vae: VAE, data: ImageInput | TabularInput, rows: Array, num_draws: int) -> Path:
    """Write the VAE's bundle, calibrated on `rows`, in the graphs' dtype."""
    latent_size = vae.prior.latent_size
    graphs, files = export_graphs(graph_modules(vae, data, rows), data, latent_size)
    engine = OnnxEngine(graphs, files, "cpu")
    base_samples = noise.base_samples(0, num_draws, latent_size)
    held_out = conformal.scores(score_columns(engine, graphs, rows, base_samples, REFINE))
    scores = {name: np.sort(values) for name, values in held_out.items()}
    files |= {
        CALIBRATION: write_arrays({"noise": base_samples, **scores}),
        GOLDEN: write_arrays(golden_rows(engine, graphs, rows[:4], base_samples)),
    }
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        version=1,
        created=datetime.now(UTC),
        input=data,
        latent_size=latent_size,
        likelihood="gaussian",
        prior="standard_normal",
        num_draws=num_draws,
        seed=0,
        scores=tuple(scores),
        default_score="negative_elbo",
        calibration=Calibration.of(len(rows), REFINE),
        tolerance=TOLERANCE,
        graphs=graphs,
        files=describe_files(files),
    )
    return write_bundle(repository, manifest, files)
