"""Importance sampling streamed through the served graphs, against one call of them and against log p(x) itself."""

from pathlib import Path

import numpy as np
import pytest

from service.bundle import read_bundle
from service.engine import OnnxEngine
from service.scoring import noise
from tests.oracle.conftest import MODELS, _rows
from training.evaluation.bounds import bounds, log_evidence


@pytest.mark.parametrize("name", ["image-wrong", "brought-wrong"])
def test_streaming_changes_nothing_and_rises_to_the_evidence(name: str, oracle_repository: Path) -> None:
    bundle = read_bundle(oracle_repository / name / "1")
    engine = OnnxEngine(bundle.manifest.graphs, bundle.files, "cpu")
    truth, data = MODELS[name]
    x = _rows(truth, data, 20, seed=11)
    exact = truth.log_evidence(x.reshape(20, -1).astype(np.float64))
    base_samples = noise.base_samples(3, 5000, bundle.manifest.latent_size)

    # 700 does not divide 5,000: the last chunk has fewer draws, and must count for less.
    streamed = log_evidence(engine, x, base_samples, chunk=700)
    np.testing.assert_allclose(streamed, bounds(engine, x, base_samples)["log_evidence"], rtol=0, atol=1e-9)
    errors = [np.abs(log_evidence(engine, x, base_samples[:draws], chunk=64) - exact).mean() for draws in (8, 128)]
    errors.append(np.abs(streamed - exact).mean())
    assert errors[0] > 4 * errors[1] > 16 * errors[2]
    np.testing.assert_allclose(streamed, exact, rtol=0, atol=2e-3)
