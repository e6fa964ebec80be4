"""Likelihoods p(x|z): one class each, in data units, normalising constants included."""

from training.model.likelihoods.categorical import Categorical
from training.model.likelihoods.gaussian import (
    Gaussian,
    GaussianFixed,
    GaussianHeteroscedastic,
    GaussianOptimal,
    GaussianShared,
)
from training.model.likelihoods.likelihood import Likelihood, LikelihoodError
from training.model.likelihoods.mixed import Mixed, MixedAsinh, MixedHeteroscedastic, MixedStudentT
from training.model.likelihoods.pixels import Bernoulli, ContinuousBernoulli, DiscretizedLogistic
from training.model.likelihoods.student_t import StudentT

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "gaussian": Gaussian,
    "gaussian_shared": GaussianShared,
    "gaussian_optimal": GaussianOptimal,
    "gaussian_heteroscedastic": GaussianHeteroscedastic,
    "gaussian_fixed": GaussianFixed,
    "student_t": StudentT,
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "discretized_logistic": DiscretizedLogistic,
    "categorical": Categorical,
    "mixed": Mixed,
    "mixed_heteroscedastic": MixedHeteroscedastic,
    "mixed_student_t": MixedStudentT,
    "mixed_asinh": MixedAsinh,
}

__all__ = ["LIKELIHOODS", "Likelihood", "LikelihoodError"]
