"""From a recipe to an untrained VAE."""

from typing import Any

import numpy.typing as npt
import torch

from service.manifest import ImageInput, TabularInput
from training.architectures import ARCHITECTURES
from training.features import encoder_features
from training.likelihoods import LIKELIHOODS
from training.priors import PRIORS
from training.recipes import ModelRecipe
from training.vae import VAE


def build(recipe: ModelRecipe, data: ImageInput | TabularInput, rows: npt.NDArray[Any], seed: int) -> VAE:
    """A VAE with weights drawn by `seed`, its scales set by the training rows, shape (N, *data.shape).

    Raises:
        LikelihoodError: The data has no such likelihood.
        ArchitectureError: The architecture cannot take the data.
    """
    torch.manual_seed(seed)
    latent_size = recipe.latent_size or max(2, min(16, len(data.features) - 1))
    features = encoder_features(data, rows)
    likelihood = LIKELIHOODS[recipe.likelihood](data, rows)
    networks = ARCHITECTURES[recipe.architecture](
        data, features.num_features, likelihood.num_params, latent_size, recipe.widths
    )
    return VAE(features, *networks, likelihood, PRIORS[recipe.prior](latent_size, recipe.components))
