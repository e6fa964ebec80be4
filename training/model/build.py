"""From a recipe of the model to an untrained VAE."""

from typing import Any, Self

import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.bundle import ImageInput, TabularInput
from service.scoring import MAX_LATENT_SIZE
from training.model.architectures import ARCHITECTURES
from training.model.features import encoder_features
from training.model.likelihoods import LIKELIHOODS
from training.model.priors import PRIORS
from training.model.vae import VAE

FEW_FEATURES = 3
"""Features that have a latent each, if the recipe does not say: two latents lose too much of three columns."""


class ModelRecipe(BaseModel):
    """Options of the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str = Field(default="gated_mlp", description=", ".join(ARCHITECTURES) + ".")
    widths: tuple[int, ...] = Field(default=(256, 256), min_length=1, description="Units (or channels) of each layer.")
    latent_size: int | None = Field(
        default=16,
        ge=1,
        le=MAX_LATENT_SIZE,
        description="L. null: the number of features minus one, at most 16; of three or fewer their number, or 2.",
    )
    likelihood: str = Field(description="p(x|z): " + ", ".join(LIKELIHOODS) + ".")
    prior: str = Field(default="standard_normal", description="p(z): " + ", ".join(PRIORS) + ".")
    components: int = Field(default=100, ge=1, description="Number of Gaussians of a mixture prior.")

    @model_validator(mode="after")
    def _registered(self) -> Self:
        for value, registry in (
            (self.architecture, ARCHITECTURES.keys()),
            (self.likelihood, LIKELIHOODS.keys()),
            (self.prior, PRIORS.keys()),
        ):
            if value not in registry:
                raise ValueError(f"{value!r} is none of {', '.join(registry)}")
        return self


def build(recipe: ModelRecipe, data: ImageInput | TabularInput, rows: npt.NDArray[Any], seed: int) -> VAE:
    """A VAE with weights drawn by `seed`, its scales set by the training rows, shape (N, *data.shape).

    Raises:
        LikelihoodError: The data has no such likelihood.
        ArchitectureError: The architecture cannot take the data.
    """
    torch.manual_seed(seed)
    number = len(data.features)
    latent_size = recipe.latent_size or (max(2, number) if number <= FEW_FEATURES else min(16, number - 1))
    likelihood = LIKELIHOODS[recipe.likelihood](data, rows)
    features = encoder_features(data, rows, likelihood.asinh_scale)
    networks = ARCHITECTURES[recipe.architecture](
        data, features.num_features, likelihood.num_params, latent_size, recipe.widths
    )
    return VAE(features, *networks, likelihood, PRIORS[recipe.prior](latent_size, recipe.components))
