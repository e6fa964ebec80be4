"""Likelihoods p(x|z): one class each, in data units, normalising constants included."""

from training.model.likelihoods.categorical import Categorical
from training.model.likelihoods.gaussian import Gaussian, GaussianFixed, GaussianHeteroscedastic, GaussianShared
from training.model.likelihoods.likelihood import Likelihood, LikelihoodError
from training.model.likelihoods.mixed import Mixed, MixedAsinh, MixedHeteroscedastic
from training.model.likelihoods.pixels import Bernoulli, ContinuousBernoulli, DiscretizedLogistic

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "gaussian": Gaussian,
    "gaussian_shared": GaussianShared,
    "gaussian_heteroscedastic": GaussianHeteroscedastic,
    "gaussian_fixed": GaussianFixed,
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "discretized_logistic": DiscretizedLogistic,
    "categorical": Categorical,
    "mixed": Mixed,
    "mixed_heteroscedastic": MixedHeteroscedastic,
    "mixed_asinh": MixedAsinh,
}

__all__ = ["LIKELIHOODS", "Likelihood", "LikelihoodError"]
