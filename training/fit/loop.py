"""The training loop.

Every random number of an epoch comes from a generator seeded by (seed, epoch), and a run is resumed only at the start
of an epoch. It therefore gives the same result as an uninterrupted run with the same number of processes.
"""

import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.engine import fitting
from service.errors import LowerboundError
from training.fit.diagnostics import diagnose
from training.fit.disk import replace_file, to_disk
from training.fit.exemplars import set_exemplars
from training.fit.options import FitRecipe
from training.fit.progress import ProgressBar
from training.fit.rows import TrainingRows, take
from training.fit.step import Step
from training.model import VAE
from training.model.threads import enough_threads
from training.model.vae import log_normal

BEST = "best.safetensors"
METRICS = "metrics.csv"
FEWEST_STEPS, MOST_STEPS = 25, 3000
"""Between two looks at the held-out bound, where a recipe counts steps."""

RESIDENT = 2 * 2**30
"""Bytes of rows that a device's memory has room for beside the training; of more, each batch is copied."""

DIAGNOSED = 2000
"""Held-out rows that the diagnostics look at; beyond them they take longer than the epoch."""


@dataclass(frozen=True)
class Epoch:
    """Figures of one epoch: means over its rows, nats per row."""

    epoch: int
    seconds: float
    kl_weight: float
    loss: float
    log_likelihood: float
    kl: float
    held_out_elbo: float
    held_out_log_likelihood: float
    held_out_kl: float
    held_out_log_evidence: float
    active_units: int
    mutual_information: float
    marginal_kl: float

    def shown(self) -> dict[str, float]:
        """The figures worth a place on one line."""
        return {
            "loss": self.loss,
            "log-likelihood": self.log_likelihood,
            "KL": self.kl,
            "held-out ELBO": self.held_out_elbo,
            "active units": self.active_units,
            "I(x; z)": self.mutual_information,
            "seconds": self.seconds,
        }


class DivergedError(LowerboundError):
    """The training took steps so large that the bound is no number."""


@dataclass
class Progress:
    """Where a run stands; kept beside each checkpoint."""

    recipe: FitRecipe
    history: list[Epoch]

    @property
    def best(self) -> Epoch | None:
        """The epoch of the highest held-out bound: of the ELBO or, where that was the objective, of the evidence."""
        return max(self.history, key=self._bound, default=None)

    @property
    def finished(self) -> bool:
        """All epochs are done, or the held-out bound has not risen for `patience` of them."""
        done = len(self.history)
        return done >= self.recipe.epochs or (self.best is not None and done - self.best.epoch >= self.recipe.patience)

    @property
    def diverged(self) -> bool:
        """The weights are not numbers, and have never been good."""
        return self.best is not None and self._bound(self.best) == -math.inf

    def _bound(self, epoch: Epoch) -> float:
        bound = epoch.held_out_elbo if self.recipe.objective == "elbo" else epoch.held_out_log_evidence
        return -math.inf if math.isnan(bound) else bound


def fit(
    vae: VAE, train: TrainingRows, held_out: Tensor, base_samples: Tensor, recipe: FitRecipe, run: Path
) -> list[Epoch]:
    """Train until the held-out bound stops rising, and leave the best weights in `vae`, and exemplars in its prior.

    Continues where the checkpoint in `run` stands, if there is one.

    Args:
        vae: Trained in place.
        train: Raw training rows, (N, *shape), or where they are read or what they are drawn from at each epoch.
        held_out: Raw rows that decide when to stop and which epoch was best.
        base_samples: Noise of the held-out bound, (K, L).
        recipe: How to train.
        run: Folder for checkpoints, `metrics.csv`, TensorBoard's files and `best.safetensors`.

    Returns:
        Every epoch's figures.
    """
    with enough_threads(vae, held_out[:1], recipe.batch_size * recipe.num_draws):
        return _fit(vae, train, held_out, base_samples, recipe, run)


def _fit(
    vae: VAE, train: TrainingRows, held_out: Tensor, base_samples: Tensor, recipe: FitRecipe, run: Path
) -> list[Epoch]:
    accelerator = _accelerator(recipe, run)
    if train.nbytes + held_out.nbytes <= RESIDENT:
        train, held_out = train.to(accelerator.device), held_out.to(accelerator.device)
    take_step = Step(vae, recipe, accelerator)
    steps = math.ceil(len(train) / recipe.batch_size)
    if recipe.steps:
        # An epoch passes over few rows several times, since the held-out bound at its end would else take longest. Of
        # many rows it has a part.
        steps = min(steps * max(1, FEWEST_STEPS // steps), MOST_STEPS)
        recipe = recipe.model_copy(update={"epochs": math.ceil(recipe.steps / steps)})
    progress = Progress(recipe, _load_checkpoint(accelerator, run))
    with ProgressBar(recipe.epochs, steps, len(progress.history), accelerator.is_main_process) as bar:
        while not progress.finished:
            epoch = len(progress.history) + 1
            started = time.perf_counter()
            kl_weight = recipe.beta * min(1.0, epoch / recipe.warmup_epochs if recipe.warmup_epochs else 1.0)
            sums = torch.zeros(4, device=accelerator.device)

            take_step.objective.train()
            for step, (x, noise) in enumerate(
                epoch_batches(train, base_samples.shape[1], epoch, steps, recipe, accelerator)
            ):
                sums += take_step(x, noise, kl_weight, (epoch - 1 + step / steps) / recipe.epochs)
                bar.step()

            take_step.objective.eval()
            sums = accelerator.reduce(sums)
            loss, log_likelihood, kl = (sums[:3] / sums[3]).tolist()
            held_out_figures = _evaluate(vae, held_out, base_samples, recipe, accelerator)
            seconds = time.perf_counter() - started
            figures = Epoch(epoch, seconds, kl_weight, loss, log_likelihood, kl, **held_out_figures)
            progress.history.append(figures)
            if progress.diverged:
                raise DivergedError(f"no bound is finite after epoch {epoch}: lower fit.learning_rate")
            if accelerator.is_main_process:
                if progress.best is figures:
                    replace_file(run / BEST, lambda path: save_file(vae.state_dict(), path))
                replace_file(run / METRICS, lambda path: _write_metrics(path, progress.history))
            accelerator.log({name: value for name, value in asdict(figures).items() if name != "epoch"}, step=epoch)
            _save_checkpoint(accelerator, run, progress)
            bar.epoch(epoch, figures.shown(), progress.best is figures)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    history = load_best(vae, run)
    set_exemplars(vae, train, held_out, base_samples, recipe)
    return history


def load_best(vae: VAE, run: Path) -> list[Epoch]:
    """Put the best weights of a run into `vae`, and return every epoch's figures; without epochs, nothing changes."""
    checkpoint = _newest_checkpoint(run)
    if checkpoint is None:
        return []
    vae.load_state_dict(load_file(run / BEST))
    vae.eval()
    return _read_history(checkpoint)


def _accelerator(recipe: FitRecipe, run: Path) -> Accelerator:
    tf32 = recipe.mixed_precision == "tf32"
    torch.backends.cuda.matmul.fp32_precision = "tf32" if tf32 else "ieee"
    mixed_precision = "no" if tf32 else recipe.mixed_precision
    accelerator = Accelerator(mixed_precision=mixed_precision, log_with="tensorboard", project_dir=run)
    accelerator.init_trackers("tensorboard")
    return accelerator


def epoch_batches(
    rows: TrainingRows, latent_size: int, epoch: int, steps: int, recipe: FitRecipe, accelerator: Accelerator
) -> Iterator[tuple[Tensor, Tensor]]:
    """The share of this process in every batch of an epoch of so many steps, and its noise: (b, *shape) and (b, K, L).

    Within it no row comes again before all have come. All processes draw the same order of rows and the same noise, and
    each takes its own part, so that the number of processes changes nothing but the order of additions.
    """
    generator = torch.Generator(accelerator.device).manual_seed(recipe.seed * 2**20 + epoch)
    passes = math.ceil(steps / math.ceil(len(rows) / recipe.batch_size))
    orders = [torch.randperm(len(rows), generator=generator, device=generator.device) for _ in range(passes)]
    for batch in islice((batch for order in orders for batch in order.split(recipe.batch_size)), steps):
        shape = (len(batch), recipe.num_draws, latent_size)
        noise = torch.randn(shape, generator=generator, device=generator.device)
        share = slice(accelerator.process_index, None, accelerator.num_processes)
        # The last batch may be too small for every process to have a row of it.
        if len(batch) >= accelerator.num_processes:
            x = take(rows, batch, share, generator)
            yield x.to(accelerator.device), noise[share]


@torch.no_grad()
def _evaluate(
    vae: VAE, rows: Tensor, base_samples: Tensor, recipe: FitRecipe, accelerator: Accelerator
) -> dict[str, Any]:
    """Means of the bounds over the rows, and the diagnostics of the first `DIAGNOSED`, as an epoch has them."""
    base_samples = base_samples.to(accelerator.device)
    share = rows[accelerator.process_index :: accelerator.num_processes]
    sums = torch.zeros(5, dtype=torch.float64, device=accelerator.device)
    # Four times the draws of a step at once: nothing has to be kept for gradients.
    draws = fitting(4 * recipe.batch_size * recipe.num_draws, rows[0].numel())
    for batch in share.split(max(1, draws // len(base_samples))):
        x = batch.to(accelerator.device)
        bounds = vae.bounds(x, base_samples)
        rows_seen = bounds.kl.new_tensor(len(x))
        totals = [rows_seen, *(b.sum() for b in (bounds.elbo, bounds.log_likelihood, bounds.kl, bounds.log_evidence))]
        sums += torch.stack(totals)
    sums = accelerator.reduce(sums)
    elbo, log_likelihood, kl, log_evidence = (sums[1:] / sums[0]).tolist()
    return {
        "held_out_elbo": elbo,
        "held_out_log_likelihood": log_likelihood,
        "held_out_kl": kl,
        "held_out_log_evidence": log_evidence,
        **_diagnose(vae, rows[:DIAGNOSED].to(accelerator.device), recipe.seed),
    }


@torch.no_grad()
def _diagnose(vae: VAE, rows: Tensor, seed: int) -> dict[str, Any]:
    mean, log_variance = vae.posterior(rows)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed)).to(mean.device)[:, None]
    z = vae.draws(mean, log_variance, noise)
    latent_kl = vae.prior.kl(mean, log_variance, z, log_normal(noise, log_variance))
    return diagnose(mean, log_variance, noise[:, 0], latent_kl)


def _save_checkpoint(accelerator: Accelerator, run: Path, progress: Progress) -> None:
    """Complete once its progress.json is there; only then are older ones removed."""
    folder = run / f"checkpoint-{len(progress.history)}"
    with to_disk(folder):
        accelerator.save_state(str(folder))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        replace_file(
            folder / "progress.json", lambda path: path.write_text(json.dumps([asdict(e) for e in progress.history]))
        )
        for other in run.glob("checkpoint-*"):
            if other != folder:
                shutil.rmtree(other)


def _load_checkpoint(accelerator: Accelerator, run: Path) -> list[Epoch]:
    newest = _newest_checkpoint(run)
    if newest is None:
        return []
    accelerator.load_state(str(newest))
    return _read_history(newest)


def _newest_checkpoint(run: Path) -> Path | None:
    complete = [path.parent for path in run.glob("checkpoint-*/progress.json")]
    return max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def _read_history(checkpoint: Path) -> list[Epoch]:
    return [Epoch(**epoch) for epoch in json.loads((checkpoint / "progress.json").read_text())]


def _write_metrics(path: Path, history: list[Epoch]) -> None:
    names = [column.name for column in fields(Epoch)]
    lines = [",".join(names), *(",".join(str(value) for value in asdict(epoch).values()) for epoch in history)]
    path.write_text("\n".join(lines) + "\n")
