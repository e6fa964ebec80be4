"""False alarms where new rows repeat training rows, and the anomalies found at the same level.

    .venv/benchmark/bin/python -m tests.benchmarks.repeats --tables FOLDER --cases 11_donors 33_skin --fit.steps 300

Any other option is one of the recipe `table`. Of at most `ROWS` normal rows of a table a fifth is new. The others are
divided in two ways, and a model is trained on each division: *apart*, where identical rows all lie in one part, and
*drawn*, as the trainer does it. Rates are means over the seeds with their standard errors, of the score
`negative_elbo`.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from service.scoring import noise, p_values
from tests.benchmarks.detection import tasks
from training.datasets import Dataset, SplitRecipe, Splits, split
from training.datasets.splits import divide
from training.evaluation.bounds import bounds
from training.fit.loop import fit
from training.model.build import build
from training.recipes import Recipe
from training.screening import TorchEngine

ROWS, NEW = 4000, 0.2
LEVELS = (0.01, 0.05, 0.1)


def apart(dataset: Dataset, recipe: SplitRecipe) -> Splits:
    """The parts, with identical rows all in one."""
    fractions = np.array([recipe.validation, recipe.calibration, recipe.test])
    validation, calibration, test, train = divide(dataset.rows, fractions, recipe.seed)
    return Splits(train, validation, calibration, test)


def rates(recipe: Recipe, dataset: Dataset, splits: Splits, others: list[tasks.Array], seed: int) -> list[float]:
    """The share of each group of other rows whose p-value is at most each level."""
    vae = build(recipe.model, dataset.input, dataset.rows[splits.train], seed)
    base_samples = noise.base_samples(recipe.bound.seed, recipe.bound.num_draws, vae.prior.latent_size)
    train, validation = dataset.rows[splits.train], dataset.rows[splits.validation]
    options = recipe.fit.model_copy(update={"seed": seed})
    with tempfile.TemporaryDirectory() as run:
        fit(vae, *map(torch.from_numpy, (train, validation, base_samples)), options, Path(run))
    engine = TorchEngine(vae.cpu(), dataset, validation)

    def score(x: tasks.Array) -> tasks.Array:
        return np.nan_to_num(-bounds(engine, x, base_samples)["elbo"], nan=np.inf)

    held_out = np.sort(score(dataset.rows[splits.calibration]))
    return [float(np.mean(p_values(score(x), held_out) <= level)) for x in others for level in LEVELS]


def main() -> None:
    """Print a line for each table and division."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--cases", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    given, corrections = parser.parse_known_args()
    experiment = tasks.tables(given.tables)
    recipe = Recipe.read("table", ["--data", "-", *corrections])
    alarms, found = (" | ".join(f"{name} {level:.0%}" for level in LEVELS) for name in ("alarms at", "found at"))
    print(f"| table | division | repeats | {alarms} | {found} |")
    print("|---|---|" + "---:|" * 7)
    for case in given.cases or experiment.cases:
        lines: dict[str, list[list[float]]] = {"apart": [], "drawn": []}
        for seed in given.seeds:
            task = experiment.make(case, seed, 0.0)
            normal = np.random.default_rng(seed).permutation(np.concatenate([task.train, task.normal]))[:ROWS]
            known, new = np.split(normal, [round((1 - NEW) * len(normal))])
            dataset, others = Dataset(task.data, known), [new, task.anomalies["anomalies"][:ROWS]]
            options = SplitRecipe(seed=seed)
            for name, divided in {"apart": apart(dataset, options), "drawn": split(dataset, options)}.items():
                lines[name].append([divided.repeats, *rates(recipe, dataset, divided, others, seed)])
        for name, values in lines.items():
            mean, error = np.mean(values, 0), np.std(values, 0, ddof=1) / len(values) ** 0.5
            shown = [f"{100 * m:.2f} ± {100 * e:.2f}" for m, e in zip(mean, error, strict=True)]
            print(f"| {case} | {name} | {100 * mean[0]:.0f} % | {' | '.join(shown[1:])} |", flush=True)


if __name__ == "__main__":
    main()
