"""The objective of training, and one step that lowers it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from training.fit.options import FitRecipe
from training.model import VAE
from training.model.vae import log_normal

LIKELIHOOD_RATE_FACTOR = 10.0
"""Learning rate of the likelihood's own parameters, as a multiple of the networks'."""

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    # Hägele et al. 2024, "Scaling laws and compute-optimal training beyond fixed training durations".
    "cooldown": lambda progress: min(1.0, 2 * (1 - progress)),
}
"""The learning rate as a share of the recipe's, by the share of the steps that are taken."""

WARM_UP = 3
"""Steps before one is captured, in which libraries and the optimizer take the memory that they keep."""


class Objective(nn.Module):
    """The minimised objective, as one module, so that it can be spread over processes.

    With w the weight of the KL, which rises to β during warm-up, the objective `elbo` is

        −mean_k log p(x|z_k) + w Σ_l max(λ, KL_l)

    averaged over the batch: λ are the free bits, below which the batch's mean KL of a latent costs nothing (Higgins et
    al. 2017, eq. 4; Kingma et al. 2016, eq. 15). `importance_weighted` is

        −log mean_k p(x|z_k) [p(z_k) / q(z_k|x)]^w

    (Burda et al. 2016, eq. 8, when w = 1).
    """

    def __init__(self, vae: VAE, recipe: FitRecipe) -> None:
        super().__init__()
        self.vae = vae
        self.free_bits = recipe.free_bits
        self.importance_weighted = recipe.objective == "importance_weighted"

    def forward(self, x: Tensor, noise: Tensor, kl_weight: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, log-likelihood and KL: means over the batch, for noise of shape (B, K, L)."""
        mean, log_variance = self.vae.posterior(x)
        z = self.vae.draws(mean, log_variance, noise)
        log_posterior = log_normal(noise, log_variance)  # (B, K, L)
        log_likelihood = self.vae.feature_log_likelihood(x, z).sum(-1)  # (B, K)
        latent_kl = self.vae.prior.kl(mean, log_variance, z, log_posterior).mean(0)  # (L,)
        if self.importance_weighted:
            log_ratio = self.vae.prior.log_prob(z) - log_posterior.sum(-1)
            loss = -(torch.logsumexp(log_likelihood + kl_weight * log_ratio, 1) - math.log(z.shape[1])).mean()
        else:
            loss = -log_likelihood.mean() + kl_weight * latent_kl.clamp(min=self.free_bits).sum()
        return loss, log_likelihood.mean(), latent_kl.sum()


class Step:
    """One step of Adam down the objective's gradient over a batch.

    A step is hundreds of operations, and a GPU does those of a small model faster than Python asks for them. On one GPU
    it is therefore captured as CUDA graphs, one for each size of batch, which do all of them at one call: the same
    operations, in the same order. Not captured are the steps of several processes, which talk to each other in them,
    and those in float16, where the CPU decides which to leave out.

    Args:
        vae: Trained in place.
        recipe: How to train.
        accelerator: Of this process; the model and the optimizer become part of its checkpoints.
    """

    def __init__(self, vae: VAE, recipe: FitRecipe, accelerator: Accelerator) -> None:
        self._recipe = recipe
        self._accelerator = accelerator
        on_one_gpu = accelerator.device.type == "cuda" and accelerator.num_processes == 1
        self.captured = on_one_gpu and recipe.mixed_precision != "fp16"
        self._left = WARM_UP
        self._replays: dict[torch.Size, Replay] = {}
        # The likelihood's few parameters are scales, not weights: at the networks' pace they would take hundreds of
        # epochs.
        networks = [*vae.encoder.parameters(), *vae.decoder.parameters(), *vae.prior.parameters()]
        groups: list[dict[str, Any]] = [
            {"params": networks, "pace": 1.0},
            {"params": [*vae.likelihood.parameters()], "pace": LIKELIHOOD_RATE_FACTOR},
        ]
        if self.captured:
            # The rate, too, has to be where a graph finds it.
            for group in groups:
                group["lr"] = torch.zeros((), device=accelerator.device)
        optimizer = torch.optim.Adam(groups, lr=recipe.learning_rate, capturable=self.captured, fused=True)
        optimizer.register_load_state_dict_pre_hook(_keep_options)
        self.objective, prepared = accelerator.prepare(Objective(vae, recipe), optimizer)
        # What accelerate puts around an optimizer searches the disk for a package twice a step; only float16 needs it.
        self._optimizer = optimizer if accelerator.scaler is None else prepared
        self._parameters = [*self.objective.parameters()]

    def __call__(self, x: Tensor, noise: Tensor, kl_weight: float, progress: float) -> Tensor:
        """Take one.

        Args:
            x: Raw rows, (B, *shape).
            noise: (B, K, L).
            kl_weight: Of the objective.
            progress: 0 to 1 of all steps, which the learning rate's schedule goes by.

        Returns:
            Loss, log-likelihood, KL and 1, summed over the rows, (4,); to be used before the next step.
        """
        self._set_pace(progress)
        if not self.captured:
            return self._take(x, noise, kl_weight)
        weight = torch.full((), kl_weight, device=x.device)
        if self._left:
            self._left -= 1
            return _aside(self._take, x, noise, weight)
        if x.shape not in self._replays:
            self._replays[x.shape] = Replay(self._take, x, noise, weight)
        return self._replays[x.shape](x, noise, weight)

    def _take(self, x: Tensor, noise: Tensor, kl_weight: Tensor | float) -> Tensor:
        with self._accelerator.autocast():
            loss, log_likelihood, kl = self.objective(x, noise, kl_weight)
        self._accelerator.backward(loss)
        self._accelerator.unscale_gradients()
        nn.utils.clip_grad_norm_(self._parameters, self._recipe.clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return len(x) * torch.stack([loss, log_likelihood, kl, torch.ones_like(loss)]).detach()

    def _set_pace(self, progress: float) -> None:
        factor = SCHEDULES[self._recipe.schedule](progress)
        for group in self._optimizer.param_groups:
            rate = factor * group["pace"] * self._recipe.learning_rate
            if self.captured:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


class Replay:
    """The operations of a function of tensors on a GPU, captured as a CUDA graph.

    The tensors' values decide nothing that the CPU does, and the function has run before.
    """

    def __init__(self, function: Callable[..., Tensor], *inputs: Tensor) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function's answer for other tensors of the same shapes, which the next call overwrites."""
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        self._graph.replay()
        return self._output


def _aside(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """The function's answer, computed on a stream of its own, as what is to be captured has to be before."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        output = function(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    return output


def _keep_options(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load no options: a checkpoint may come from another kind of device, where Adam goes about it differently."""
    for group, loaded in zip(optimizer.param_groups, state["param_groups"], strict=True):
        loaded |= {name: group[name] for name in ("lr", "capturable")}
