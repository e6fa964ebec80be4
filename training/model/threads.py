"""How many threads PyTorch uses."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from training.model.vae import VAE

SMALL = 2**28
"""Floating-point operations of a batch, forward, below which one thread computes it.

A second thread would save about a millisecond of them. The threads wait for each other some thirty times a batch, and
on a machine with other work each time until both have a core.
"""


@contextmanager
def enough_threads(vae: VAE, x: Tensor, draws: int) -> Iterator[None]:
    """Let PyTorch have one thread where the batches, of so many draws over all rows, are small; else as many as before.

    A raw row x, (1, *shape), says how much a draw takes.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if draws * _operations(vae, x) >= SMALL:
            torch.set_num_threads(before)
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def _operations(vae: VAE, x: Tensor) -> int:
    """Floating-point operations of one draw of a row, forward, counted in products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        mean, _ = vae.posterior(x)
        vae.feature_log_likelihood(x, mean[:, None])
    return counter.get_total_flops()
