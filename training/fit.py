"""The training loop.

Every random number of an epoch comes from a generator seeded by (seed, epoch), and an epoch is taken up only from its
start: a run that was killed and resumed therefore ends with the very numbers of one that was not.

This module must not know about recipes' other sections, data files or ONNX.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.display import Display
from training.recipes import FitRecipe
from training.vae import VAE

BEST = "best.safetensors"
METRICS = "metrics.csv"
LIKELIHOOD_PACE = 10.0
"""Learning rate of the likelihood's own parameters, as a multiple of the networks'."""

ACTIVE = 0.01
"""Variance of the posterior mean over the data above which a latent counts as active (Burda et al. 2016, 3.3)."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to: means over its rows, nats per row."""

    epoch: int
    seconds: float
    kl_weight: float
    loss: float
    log_likelihood: float
    kl: float
    held_out_elbo: float
    held_out_log_likelihood: float
    held_out_kl: float
    active_units: int

    def shown(self) -> dict[str, float]:
        """The figures worth a place on one line."""
        return {
            "loss": self.loss,
            "log-likelihood": self.log_likelihood,
            "KL": self.kl,
            "held-out ELBO": self.held_out_elbo,
            "active units": self.active_units,
            "seconds": self.seconds,
        }


@dataclass
class Progress:
    """Where a run stands; kept beside each checkpoint."""

    history: list[Epoch] = field(default_factory=list)

    @property
    def best(self) -> Epoch | None:
        """The epoch of the highest held-out ELBO."""
        return max(self.history, key=lambda epoch: epoch.held_out_elbo, default=None)

    def finished(self, recipe: FitRecipe) -> bool:
        """All epochs are done, or the held-out ELBO has not risen for `patience` of them."""
        done = len(self.history)
        return done >= recipe.epochs or (self.best is not None and done - self.best.epoch >= recipe.patience)


class Objective(nn.Module):
    """What is minimised, as one module, so that it can be spread over processes.

    −E_q[log p(x|z)] + β Σ_l max(λ, KL_l), with β the weight of the KL during warm-up and λ the free bits, below which
    the batch's mean KL of a latent costs nothing (Kingma et al. 2016, eq. 15).
    """

    def __init__(self, vae: VAE, free_bits: float) -> None:
        super().__init__()
        self.vae = vae
        self.free_bits = free_bits

    def forward(self, x: Tensor, noise: Tensor, kl_weight: float) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, log-likelihood and KL: means over the batch, for noise of shape (B, 1, L)."""
        mean, log_variance = self.vae.posterior(x)
        z = self.vae.draws(mean, log_variance, noise)
        log_likelihood = self.vae.feature_log_likelihood(x, z).sum(-1).mean()
        latent_kl = self.vae.prior.kl(mean, log_variance).mean(0)
        loss = -log_likelihood + kl_weight * latent_kl.clamp(min=self.free_bits).sum()
        return loss, log_likelihood, latent_kl.sum()


def fit(vae: VAE, train: Tensor, held_out: Tensor, bank: Tensor, recipe: FitRecipe, run: Path) -> list[Epoch]:
    """Train until the held-out ELBO stops rising, and leave the best weights in `vae`.

    Continues where the checkpoint in `run` stands, if there is one.

    Args:
        vae: Trained in place.
        train: Raw training rows, (N, *shape).
        held_out: Raw rows that decide when to stop and which epoch was best.
        bank: Noise of the held-out bound, (K, L).
        recipe: How to train.
        run: Folder for checkpoints, `metrics.csv`, TensorBoard's files and `best.safetensors`.

    Returns:
        Every epoch's figures.
    """
    accelerator = Accelerator(mixed_precision=recipe.mixed_precision, log_with="tensorboard", project_dir=run)
    accelerator.init_trackers("tensorboard")
    objective = Objective(vae, recipe.free_bits)
    # The likelihood's few parameters are scales, not weights: at the networks' pace they would take hundreds of epochs.
    groups: list[dict[str, Any]] = [
        {"params": [*vae.encoder.parameters(), *vae.decoder.parameters(), *vae.prior.parameters()]},
        {"params": [*vae.likelihood.parameters()], "lr": LIKELIHOOD_PACE * recipe.learning_rate},
    ]
    optimizer = torch.optim.Adam(groups, lr=recipe.learning_rate)
    objective, optimizer = accelerator.prepare(objective, optimizer)
    progress = _load_checkpoint(accelerator, run)
    steps = math.ceil(len(train) / recipe.batch_size)
    with Display(recipe.epochs, steps, len(progress.history), accelerator.is_main_process) as display:
        while not progress.finished(recipe):
            epoch = len(progress.history) + 1
            started = time.perf_counter()
            kl_weight = min(1.0, epoch / recipe.warmup_epochs) if recipe.warmup_epochs else 1.0
            sums = torch.zeros(4, device=accelerator.device)

            objective.train()
            for x, noise in epoch_batches(train, bank.shape[1], epoch, recipe, accelerator):
                with accelerator.autocast():
                    loss, log_likelihood, kl = objective(x, noise, kl_weight)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(objective.parameters(), recipe.clip)
                optimizer.step()
                optimizer.zero_grad()
                sums += len(x) * torch.stack([loss, log_likelihood, kl, torch.ones_like(loss)]).detach()
                display.step()

            objective.eval()
            sums = accelerator.reduce(sums)
            loss, log_likelihood, kl = (sums[:3] / sums[3]).tolist()
            held_out_elbo, held_out_log_likelihood, held_out_kl, active = _evaluate(
                vae, held_out, bank, recipe, accelerator
            )
            seconds = time.perf_counter() - started
            figures = Epoch(
                epoch,
                seconds,
                kl_weight,
                loss,
                log_likelihood,
                kl,
                held_out_elbo,
                held_out_log_likelihood,
                held_out_kl,
                active,
            )
            progress.history.append(figures)
            if accelerator.is_main_process:
                if progress.best is figures:
                    _replace(run / BEST, lambda path: save_file(vae.state_dict(), path))
                _replace(run / METRICS, lambda path: _write_metrics(path, progress.history))
            accelerator.log({name: value for name, value in asdict(figures).items() if name != "epoch"}, step=epoch)
            _save_checkpoint(accelerator, run, progress)
            display.epoch(epoch, figures.shown(), progress.best is figures)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    vae.load_state_dict(load_file(run / BEST))
    vae.eval()
    return progress.history


def epoch_batches(
    rows: Tensor, latent_size: int, epoch: int, recipe: FitRecipe, accelerator: Accelerator
) -> Iterator[tuple[Tensor, Tensor]]:
    """The share of this process in every batch of an epoch, and its noise: (b, *shape) and (b, 1, L).

    All processes draw the same order of rows and the same noise, and each takes its own part, so that the number of
    processes changes nothing but the order of additions.
    """
    generator = torch.Generator().manual_seed(recipe.seed * 2**20 + epoch)
    order = torch.randperm(len(rows), generator=generator)
    for batch in order.split(recipe.batch_size):
        noise = torch.randn(len(batch), 1, latent_size, generator=generator)
        share = slice(accelerator.process_index, None, accelerator.num_processes)
        # The last batch may be too small for every process to have a row of it.
        if len(batch) >= accelerator.num_processes:
            yield rows[batch[share]].to(accelerator.device), noise[share].to(accelerator.device)


@torch.no_grad()
def _evaluate(
    vae: VAE, rows: Tensor, bank: Tensor, recipe: FitRecipe, accelerator: Accelerator
) -> tuple[float, float, float, int]:
    """Mean ELBO, log-likelihood and KL over the rows, and the number of active latents."""
    bank = bank.to(accelerator.device)
    share = rows[accelerator.process_index :: accelerator.num_processes]
    sums = torch.zeros(4 + 2 * bank.shape[1], dtype=torch.float64, device=accelerator.device)
    for batch in share.split(max(1, recipe.batch_size // 4)):
        x = batch.to(accelerator.device)
        bounds = vae.bounds(x, bank)
        mean = vae.posterior(x)[0].double()
        totals = [bounds.elbo.sum(), bounds.log_likelihood.sum(), bounds.kl.sum(), bounds.kl.new_tensor(len(x))]
        sums += torch.cat([torch.stack(totals), mean.sum(0), (mean**2).sum(0)])
    sums = accelerator.reduce(sums)
    elbo, log_likelihood, kl = (sums[:3] / sums[3]).tolist()
    mean, square = (sums[4:] / sums[3]).chunk(2)
    return elbo, log_likelihood, kl, int((square - mean**2 > ACTIVE).sum())


def _save_checkpoint(accelerator: Accelerator, run: Path, progress: Progress) -> None:
    """Complete once its progress.json is there; only then are older ones removed."""
    folder = run / f"checkpoint-{len(progress.history)}"
    accelerator.save_state(str(folder))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _replace(
            folder / "progress.json", lambda path: path.write_text(json.dumps([asdict(e) for e in progress.history]))
        )
        for other in run.glob("checkpoint-*"):
            if other != folder:
                shutil.rmtree(other)


def _load_checkpoint(accelerator: Accelerator, run: Path) -> Progress:
    complete = [path.parent for path in run.glob("checkpoint-*/progress.json")]
    if not complete:
        return Progress()
    newest = max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]))
    accelerator.load_state(str(newest))
    return Progress([Epoch(**epoch) for epoch in json.loads((newest / "progress.json").read_text())])


def _write_metrics(path: Path, history: list[Epoch]) -> None:
    names = [column.name for column in fields(Epoch)]
    lines = [",".join(names), *(",".join(str(value) for value in asdict(epoch).values()) for epoch in history)]
    path.write_text("\n".join(lines) + "\n")


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".new")
    write(temporary)
    temporary.replace(path)
