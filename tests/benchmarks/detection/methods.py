"""The methods compared: ours, and the baselines. Each is fitted on a task's training rows and scores others."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from service.bundle import ImageInput, TabularInput
from service.bundle.graphs import graph_contract
from service.scoring import noise, scores
from tests.benchmarks.detection.tasks import Array, Task
from training.evaluation.baselines import BASELINES, Baseline, baseline_scores
from training.evaluation.score_selection import choose, sensitivities
from training.export.single_pass_scores import SinglePassScores
from training.fit.loop import fit
from training.model.build import build
from training.recipes import Recipe

OURS = "Lowerbound"
ROW_DRAWS = 4096
"""Rows × draws that are computed at once."""


class AbsentError(Exception):
    """A method whose package is not installed. The message says which."""


class PyodVAE(Baseline):
    """The VAE of PyOD with its own defaults: the distance of a row from one random reconstruction."""

    def __init__(self, rows: Array, seed: int) -> None:
        try:
            from pyod.models.vae import VAE  # noqa: PLC0415 - an optional package
        except ImportError as error:
            raise AbsentError("PyOD is not installed; the extra `benchmark` has it") from error
        self.model = VAE(random_state=seed, verbose=0).fit(rows)

    def score(self, rows: Array) -> Array:
        return np.asarray(self.model.decision_function(rows))


RIVALS: dict[str, type[Baseline]] = {**BASELINES, "PyOD VAE": PyodVAE}
METHODS = (OURS, *RIVALS)


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores by name, each (n,) and larger for the more anomalous, and the name of the method's own choice."""

    scores: Mapping[str, Array]
    default: str


def score(method: str, recipe: Recipe, task: Task, rows: Array, seed: int, run: Path) -> Scored:
    """Fit a method of `METHODS` on the task's training rows, and score rows (n, *shape).

    Raises:
        AbsentError: Its package is not installed.
    """
    if method == OURS:
        return fit_and_score(recipe, task.data, task.train, rows, seed, run)
    return Scored({method: baseline_scores(RIVALS[method], task.data, task.train, rows, seed)}, method)


def fit_and_score(
    recipe: Recipe, data: ImageInput | TabularInput, train: Array, rows: Array, seed: int, run: Path
) -> Scored:
    """Train a model as the trainer does and score rows as the bundle would, under the shared base samples.

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
    base_samples = torch.from_numpy(
        noise.base_samples(recipe.bound.seed, recipe.bound.num_draws, vae.prior.latent_size)
    )
    settings = recipe.fit.model_copy(update={"seed": seed})
    fit(vae, torch.from_numpy(fitted), torch.from_numpy(held_out), base_samples, settings, run)
    device = next(vae.parameters()).device
    single_pass_scores = SinglePassScores(vae.cpu().eval(), data, held_out).to(device)
    names = [tensor.name for tensor in graph_contract("scores", data, vae.prior.latent_size).outputs]

    @torch.no_grad()
    def scored(rows: Array) -> dict[str, Array]:
        batches = torch.from_numpy(np.ascontiguousarray(rows)).split(max(1, ROW_DRAWS // len(base_samples)))
        answers = [
            vae.bounds(x.to(device), base_samples.to(device))._asdict()
            | dict(zip(names, single_pass_scores(x.to(device)), strict=True))
            for x in batches
        ]
        columns = {name: torch.cat([answer[name] for answer in answers]).cpu().numpy() for name in answers[0]}
        # A row too far from all data for a finite bound is as strange as can be.
        return {name: np.nan_to_num(v, nan=math.inf, posinf=math.inf) for name, v in scores(columns).items()}

    return Scored(scored(rows), choose(sensitivities(scored, data, held_out, seed), len(held_out), data))
