"""The methods compared: ours, and the baselines. Each is fitted on a task's training rows and scores others.

This module must not know which rows are anomalies.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from service import noise
from service.calibration import SCORES
from service.manifest import ImageInput, TabularInput
from tests.benchmarks.detection.tasks import Array, Task
from training.baselines import BASELINES, baseline_scores
from training.build import build
from training.fit import fit
from training.recipes import Recipe
from training.vae import VAE

OURS = "Lowerbound"
METHODS = (OURS, *BASELINES)
ONE_PASS = ("negative_elbo", "negative_log_evidence")
"""The scores of ours that are compared: those that one pass through the graphs gives."""


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores by name, each (n,) and larger for the more anomalous, and the name of the method's own choice."""

    scores: Mapping[str, Array]
    default: str


def score(method: str, recipe: Recipe, task: Task, rows: Array, seed: int, run: Path) -> Scored:
    """Fit a method of `METHODS` on the task's training rows, and score rows (n, *shape)."""
    if method == OURS:
        return fit_and_score(recipe, task.data, task.train, rows, seed, run)
    return Scored({method: baseline_scores(method, task.data, task.train, rows, seed)}, method)


def fit_and_score(
    recipe: Recipe, data: ImageInput | TabularInput, train: Array, rows: Array, seed: int, run: Path
) -> Scored:
    """Train a model as the trainer does and score rows as the bundle would, under the shared noise bank.

    Args:
        recipe: Of the model; its share of validation rows is held out of `train`, its data and other parts are unused.
        data: What kind.
        train: Raw training rows, (N, *shape).
        rows: Raw rows to score, (n, *shape).
        seed: Of the held-out rows, the weights and the training.
        run: Folder of the training's checkpoints, from which an interrupted one goes on.
    """
    order = np.random.default_rng(seed).permutation(len(train))
    cut = max(1, round(recipe.split.validation * len(train)))
    held_out, fitted = train[order[:cut]], train[order[cut:]]
    vae = build(recipe.model, data, fitted, seed)
    bank = torch.from_numpy(noise.bank(recipe.bound.seed, recipe.bound.num_draws, recipe.model.latent_size))
    settings = recipe.fit.model_copy(update={"seed": seed})
    fit(vae, torch.from_numpy(fitted), torch.from_numpy(held_out), bank, settings, run)
    bounds = bounds_of(vae, rows, bank)
    # A row too far from all data for a finite bound is as strange as can be.
    scores = {name: np.nan_to_num(SCORES[name](bounds), nan=math.inf, posinf=math.inf) for name in ONE_PASS}
    return Scored(scores, "negative_elbo")


@torch.no_grad()
def bounds_of(vae: VAE, rows: Array, bank: torch.Tensor, row_draws: int = 4096) -> dict[str, Array]:
    """The bounds of rows under a bank (K, L), in batches, on the device that the model is on."""
    device = next(vae.parameters()).device
    batches = torch.from_numpy(np.ascontiguousarray(rows)).split(max(1, row_draws // len(bank)))
    answers = [vae.bounds(batch.to(device), bank.to(device)) for batch in batches]
    names = answers[0]._fields
    return {name: torch.cat([getattr(answer, name) for answer in answers]).cpu().numpy() for name in names}
