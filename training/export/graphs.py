"""Every graph of the bundle's contract as a torch module with the contract's inputs and outputs, in order."""

import torch
from torch import Tensor, nn

from service.bundle import Array, ImageInput, TabularInput
from training.export.refinement import Refinement
from training.export.single_pass_scores import SinglePassScores
from training.model import VAE


class _OfVAE(nn.Module):
    """A function of the VAE as a module that `torch.onnx.export` takes."""

    def __init__(self, vae: VAE, data: ImageInput | TabularInput) -> None:
        super().__init__()
        self.vae = vae
        self.shape = data.shape
        self.dtype = torch.float64 if data.kind == "tabular" else torch.float32

    def in_data_units(self, values: Tensor) -> Tensor:
        """(B, D) → (B, *shape), of the dtype of answers in data units."""
        return values.unflatten(-1, self.shape).to(self.dtype)


class _Encoder(_OfVAE):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.vae.posterior(x)


class _Decoder(_OfVAE):
    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        return (self.in_data_units(self.vae.likelihood.mean(self.vae.decoder(z))),)


class _Elbo(_OfVAE):
    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        return self.vae.bounds(x, noise)


class _Explain(_OfVAE):
    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        features, latents = self.vae.explanation(x, noise)
        return features.unflatten(-1, self.shape), latents


class _Draw(_OfVAE):
    def forward(self, z: Tensor, normal: Tensor, uniform: Tensor) -> tuple[Tensor, ...]:
        return (self.in_data_units(self.vae.likelihood.sample(self.vae.decoder(z), normal, uniform)),)


class _Prior(_OfVAE):
    def forward(self, normal: Tensor, uniform: Tensor) -> tuple[Tensor, ...]:
        return (self.vae.prior.sample(normal, uniform),)


_FUNCTIONS = {
    "encoder": _Encoder,
    "decoder": _Decoder,
    "elbo": _Elbo,
    "explain": _Explain,
    "draw": _Draw,
    "prior": _Prior,
}


def graph_modules(vae: VAE, data: ImageInput | TabularInput, normal: Array) -> dict[str, nn.Module]:
    """Every graph of the contract, by name, of a trained VAE.

    `normal` are held-out rows that neither train nor calibrate, raw: what is typical.
    """
    graphs: dict[str, nn.Module] = {name: function(vae, data) for name, function in _FUNCTIONS.items()}
    graphs |= {"refine": Refinement(vae), "scores": SinglePassScores(vae.eval(), data, normal)}
    return {name: module.eval() for name, module in graphs.items()}
