"""Refinement: variational inference for each row, from where the encoder leaves off.

An encoder shares its parameters among all rows, so it gives no row its best posterior (Cremer et al. 2018, the
amortisation gap). A step of Adam (Kingma and Ba 2015, algorithm 1) moves each row's own (μ, log σ²) up the gradient of
that row's K-draw ELBO (Kim et al. 2018). How much there is to gain is itself a score, the regret (Xiao et al. 2020).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from training.model import VAE
from training.model.vae import LOG_VARIANCE_RANGE

LEARNING_RATE = 0.05
"""Adam's learning rate, in units of μ and of log σ²."""
BETAS = (0.9, 0.999)
EPSILON = 1e-3
"""In nats per unit. Adam's usual 1e-8 would move a latent on which nothing depends by the sign of rounding errors."""


class Refinement(nn.Module):
    """One step for every row, with the contract of `refine.onnx`."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        mean: Tensor,
        log_variance: Tensor,
        first_moment: Tensor,
        second_moment: Tensor,
        step: Tensor,
    ) -> tuple[Tensor, ...]:
        """The bounds at (mean, log_variance), and the state after a step up the ELBO's gradient.

        Args:
            x: (B, *shape).
            noise: ε of the ELBO, (K, L).
            mean: μ, (B, L).
            log_variance: Log σ², (B, L).
            first_moment: Adam's m, (B, 2L); zero at first.
            second_moment: Adam's v, (B, 2L); zero at first.
            step: Steps taken before this one, (B,).

        Returns:
            The six bounds, float64, (B,); then the next mean, log-variance, moments and step.
        """
        with torch.enable_grad():
            q = torch.cat([mean, log_variance], 1).detach().requires_grad_()
            bounds = self.vae.bounds_at(x, noise, *q.chunk(2, 1))
            (gradient,) = torch.autograd.grad(bounds.elbo.sum(), q)
        first_moment = BETAS[0] * first_moment + (1 - BETAS[0]) * gradient
        second_moment = BETAS[1] * second_moment + (1 - BETAS[1]) * gradient**2
        step = step + 1
        bias = [1 - torch.pow(decay, step)[:, None] for decay in BETAS]
        ascent = LEARNING_RATE * (first_moment / bias[0]) / (torch.sqrt(second_moment / bias[1]) + EPSILON)
        mean, log_variance = (q.detach() + ascent).chunk(2, 1)
        return (
            *(bound.detach() for bound in bounds),
            mean,
            log_variance.clamp(*LOG_VARIANCE_RANGE),
            first_moment,
            second_moment,
            step,
        )


def traced(refinement: Refinement, inputs: tuple[Tensor, ...]) -> nn.Module:
    """The same function with its gradient written out, operation by operation, as exporters need it.

    Args:
        refinement: What to trace.
        inputs: Examples. Sizes that are equal here are taken to be equal always: the numbers of rows and of draws must
            be unlike any other size.
    """
    state = {name: tensor.detach() for name, tensor in refinement.state_dict(keep_vars=True).items()}

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        own, given = tensors[: len(state)], tensors[len(state) :]
        return torch.func.functional_call(refinement, dict(zip(state, own, strict=True)), given)

    decompositions = dict(torch._decomp.core_aten_decompositions())  # noqa: SLF001 - as the ONNX exporter does
    decompositions[torch.ops.aten.convolution_backward.default] = _convolution_backward
    module = make_fx(function, tracing_mode="symbolic", decomposition_table=decompositions)(*state.values(), *inputs)
    # Parameters had to be inputs to be traced; exporters want them, and constants such as indices, as buffers.
    placeholders = module.graph.find_nodes(op="placeholder")
    for node, (name, tensor) in zip(placeholders, named_as_traced(state).items(), strict=False):
        module.register_buffer(name, tensor)
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.get_attr(name))
        module.graph.erase_node(node)
    for node in module.graph.find_nodes(op="get_attr"):
        if not node.target.startswith("state_"):
            constant = getattr(module, node.target)
            delattr(module, node.target)
            module.register_buffer(node.target, constant)
    module.recompile()
    return module


def named_as_traced(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A refinement's weights by their names in the module that `traced` gives, whose buffers have no dots."""
    return {f"state_{i}": tensor for i, tensor in enumerate(state.values())}


def _convolution_backward(  # noqa: PLR0913, PLR0917 - the operator's own signature
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The gradient with respect to x, as a convolution: ONNX has no operator for it, and no one asks for the others."""
    if output_mask[1] or output_mask[2]:
        raise ValueError("only the gradient with respect to x is known")
    if transposed:
        left_over = [0] * len(stride)
    else:
        left_over = [
            size - ((after - 1) * step - 2 * pad + gap * (kernel - 1) + 1)
            for size, after, step, pad, gap, kernel in zip(
                x.shape[2:], gradient.shape[2:], stride, padding, dilation, weight.shape[2:], strict=True
            )
        ]
    arguments = (gradient, weight, None, stride, padding, dilation, not transposed, left_over, groups)
    return torch.ops.aten.convolution.default(*arguments), None, None
