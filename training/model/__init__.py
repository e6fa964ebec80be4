"""The variational autoencoder: networks, likelihoods, priors, and its bounds."""

from training.model.architectures import ARCHITECTURES
from training.model.build import ModelRecipe
from training.model.likelihoods import LIKELIHOODS
from training.model.priors import PRIORS
from training.model.vae import VAE

__all__ = ["ARCHITECTURES", "LIKELIHOODS", "PRIORS", "VAE", "ModelRecipe"]
