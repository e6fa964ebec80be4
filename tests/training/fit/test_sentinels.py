"""A few cells of 9999999999 in the training rows must not hide what is strange otherwise."""

from pathlib import Path

import numpy as np
import torch

from service.bundle import NumericColumn, TabularInput
from service.scoring import noise
from training.fit.loop import fit
from training.model.build import build
from training.recipes import Recipe


def test_planted_anomalies_are_found_beside_sentinels(tmp_path: Path) -> None:
    recipe = Recipe.read("table", ["--fit.steps", "600"])
    rng = np.random.default_rng(1)
    z = rng.normal(size=600)
    age = np.clip(np.rint(40 + 12 * z + 4 * rng.normal(size=600)), 18, 90)
    income = 2500 + 600 * z + 200 * rng.normal(size=600)
    hours = 38 + 5 * rng.normal(size=600)
    rows = np.column_stack([age, income, hours])
    normal = rows[500:].copy()
    rows[[3, 77, 310], 1] = 9999999999
    strange = np.array([[40, 250_000, 38], [40, 2500, 0.0]])
    data = TabularInput(columns=tuple(NumericColumn(name=name) for name in ("age", "income", "hours")))

    vae = build(recipe.model, data, rows[:400], seed=0)
    base_samples = torch.from_numpy(noise.base_samples(0, 32, vae.prior.latent_size))
    fit(vae, torch.from_numpy(rows[:400]), torch.from_numpy(rows[400:500]), base_samples, recipe.fit, tmp_path)
    with torch.no_grad():
        usual, found = (-vae.bounds(torch.from_numpy(x), base_samples).elbo.numpy() for x in (normal, strange))
    assert (found > np.quantile(usual, 0.99)).all(), (found, np.quantile(usual, [0.5, 0.99]))
