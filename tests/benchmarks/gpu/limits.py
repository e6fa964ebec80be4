"""What the device itself can do: bytes copied and products computed in a second, by PyTorch, one after another."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from training.model import VAE

SIZE = 4096
"""Rows and columns of the matrices on a GPU; a quarter on the CPU."""

BYTES = 2**28


@dataclass(frozen=True)
class Limits:
    """Measured.

    Attributes:
        copied: Bytes a second from pinned host memory to the device.
        returned: And back.
        products: Floating-point operations a second of float32 matrix products.
    """

    copied: float
    returned: float
    products: float


def measure(device: torch.device, seconds: float) -> Limits:
    """The device's limits; on the CPU copies are within its memory."""
    there = torch.empty(BYTES, dtype=torch.uint8, device=device)
    here = torch.empty(BYTES, dtype=torch.uint8, pin_memory=device.type == "cuda")
    size = SIZE if device.type == "cuda" else SIZE // 4
    a, b, c = (torch.ones(size, size, device=device) for _ in range(3))
    return Limits(
        BYTES * rate(lambda: there.copy_(here, non_blocking=True), device, seconds),
        BYTES * rate(lambda: here.copy_(there, non_blocking=True), device, seconds),
        2 * size**3 * rate(lambda: torch.mm(a, b, out=c), device, seconds),
    )


def rate(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Calls a second, without pauses between them, after one that does not count."""
    call()
    _wait(device)
    calls, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        for _ in range(4):
            call()
        _wait(device)
        calls += 4
    return calls / (time.perf_counter() - begin)


def operations(vae: VAE, graph: str, draws: int) -> int:
    """Floating-point operations of matrix products for one row of a graph."""
    encoder, decoder = (
        sum(2 * layer.weight.numel() for layer in network.modules() if isinstance(layer, nn.Linear))
        for network in (vae.encoder, vae.decoder)
    )
    return {
        "encoder": encoder,
        "decoder": decoder,
        "elbo": encoder + draws * decoder,
        "explain": encoder + draws * decoder,
        "refine": 2 * draws * decoder,  # The gradient goes back through as many.
    }[graph]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
