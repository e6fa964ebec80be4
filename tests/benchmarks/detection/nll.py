"""Test likelihood of binarised Fashion-MNIST in the protocol of the VampPrior and Exemplar-VAE papers.

50,000 training images, their grey levels binarised afresh at every epoch; 10,000 for early stopping and the 10,000 test
images binarised once with NumPy's seed 777. −log p(x) by importance sampling, from the exported graphs on the service's
engine, after these have been compared with PyTorch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from service.engine import OnnxEngine
from service.scoring import noise
from tests.benchmarks.detection.cells import Cell
from tests.benchmarks.detection.report import line, spread
from training.datasets.idx import Idx
from training.evaluation.bounds import bounds, log_evidence
from training.export.graphs import graph_modules
from training.export.onnx import export_graphs, verify
from training.fit import Progress, training_rows
from training.fit.loop import fit
from training.model.build import build
from training.recipes import Recipe

VALIDATION = 10_000
"""Images of the training file, its last, that decide when to stop."""

PUBLISHED = {
    "MLP VAE": 228.70,
    "MLP VAE, VampPrior": 227.35,
    "ConvHVAE": 225.38,
    "ConvHVAE, VampPrior": 224.67,
}
"""Nats (Norouzi et al. 2020, "Exemplar VAE")."""


def measure(recipe: Recipe, folder: Path, num_draws: int, num_rows: int, seed: int, run: Path) -> Cell:
    """Train, export, and estimate −log p(x) of the first `num_rows` test images with `num_draws` samples each."""
    dataset = Idx(binarize="dynamic").load(folder)
    rows = dataset.rows
    train, validation, test = np.split(np.arange(len(rows)), [-dataset.num_test - VALIDATION, -dataset.num_test])
    vae = build(recipe.model, dataset.input, rows[train], seed)
    size = vae.prior.latent_size
    base_samples = noise.base_samples(recipe.bound.seed, recipe.bound.num_draws, size)
    settings = recipe.fit.model_copy(update={"seed": seed})
    history = fit(
        vae,
        training_rows(dataset, train),
        torch.from_numpy(rows[validation]),
        torch.from_numpy(base_samples),
        settings,
        run,
    )
    best = Progress(settings, history).best
    assert best is not None
    vae = vae.cpu().eval()
    modules = graph_modules(vae, dataset.input, rows[validation])
    graphs, files = export_graphs(modules, dataset.input, size)
    x = rows[test[:num_rows]]
    errors = verify(modules, dataset.input, OnnxEngine(graphs, files, "cpu"), x[:64], base_samples)
    engine = OnnxEngine(graphs, files)
    return {
        "nll": float(-log_evidence(engine, x, noise.base_samples(0, num_draws, size)).mean()),
        "negative_elbo": float(-bounds(engine, x, base_samples)["elbo"].mean()),
        "epochs": len(history),
        "active_units": best.active_units,
        "engine": engine.device,
        "largest_error": errors["elbo"],
    }


def table(found: Mapping[str, Sequence[Cell]], num_draws: int) -> str:
    """Ours by recipe, mean ± standard deviation over the seeds, beside published figures."""
    names = (
        "seeds",
        f"−log p(x), {num_draws:,} samples",
        "−ELBO",
        "epochs",
        "active units",
        "graph − PyTorch, at most",
    )
    lines = [line("nats", *names), "|---|" + "---:|" * len(names)]
    for name, cells in found.items():
        values = [spread([cell[key] for cell in cells]) for key in ("nll", "negative_elbo")]
        counts = [spread([cell[key] for cell in cells], 0) for key in ("epochs", "active_units")]
        lines.append(line(name, len(cells), *values, *counts, f"{max(c['largest_error'] for c in cells):.0e}"))
    lines.extend(line(f"{name} (published)", "", f"{nats:.2f}", "", "", "", "") for name, nats in PUBLISHED.items())
    return "\n".join(lines)
