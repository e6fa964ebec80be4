"""Honest baselines: detectors that any model has to beat, fitted on the rows that the model was trained on.

Each is fitted on, and scores, what the encoder sees (`training.model.features`): standardised numbers, one-hot
categories, missing cells filled in, pixels from 0 to 1. Every score is larger for the more anomalous row.
"""

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors

from service.bundle import Array, ImageInput, TabularInput
from training.model.features import encoder_features

EXPLAINED = 0.9
"""Share of the variance that the principal components explain."""


class Baseline(ABC):
    """A detector.

    Args:
        rows: Training rows, (N, F), float64.
        seed: Of whatever is random in it.
    """

    @abstractmethod
    def __init__(self, rows: Array, seed: int) -> None: ...

    @abstractmethod
    def score(self, rows: Array) -> Array:
        """How anomalous each of the rows (n, F) is, (n,)."""


class SumOfSquares(Baseline):
    """Σz²: the squared distance from the mean in standard deviations, a Gaussian of independent features."""

    def __init__(self, rows: Array, seed: int) -> None:
        self.location, deviation = rows.mean(0), rows.std(0)
        self.scale = np.where(deviation > 0, deviation, 1.0)

    def score(self, rows: Array) -> Array:
        return np.asarray((((rows - self.location) / self.scale) ** 2).sum(1))


class ProbabilisticPCA(Baseline):
    """Negative log-likelihood of probabilistic PCA, in nats (Tipping and Bishop 1999).

    It has the fewest components that explain `EXPLAINED` of the training rows' variance, yet leaves some variance to
    the noise. The most likely number under held-out rows detects no better on tables, and worse on images.
    """

    def __init__(self, rows: Array, seed: int) -> None:
        variances = _pca(None, rows).explained_variance_
        enough = int(np.searchsorted(np.cumsum(variances), EXPLAINED * variances.sum())) + 1
        rank = int((variances > 1e-12 * variances[0]).sum())
        self.pca = _pca(max(0, min(enough, rank - 1)), rows)

    def score(self, rows: Array) -> Array:
        return -np.asarray(self.pca.score_samples(rows))


def _pca(num_components: int | None, rows: Array) -> PCA:
    # The solver that scikit-learn would choose by itself draws random numbers where there are many features.
    return PCA(num_components, svd_solver="covariance_eigh").fit(rows)


class NearestNeighbours(Baseline):
    """Euclidean distance to the fifth nearest training row (Ramaswamy et al. 2000)."""

    neighbours = 5

    def __init__(self, rows: Array, seed: int) -> None:
        self.index = NearestNeighbors(n_neighbors=min(self.neighbours, len(rows))).fit(rows)

    def score(self, rows: Array) -> Array:
        return np.asarray(self.index.kneighbors(rows)[0][:, -1])


class Forest(Baseline):
    """Isolation forest, as scikit-learn has it by default (Liu et al. 2008)."""

    def __init__(self, rows: Array, seed: int) -> None:
        self.forest = IsolationForest(random_state=seed).fit(rows)

    def score(self, rows: Array) -> Array:
        return -np.asarray(self.forest.score_samples(rows))


BASELINES: dict[str, type[Baseline]] = {
    "Σz²": SumOfSquares,
    "probabilistic PCA": ProbabilisticPCA,
    "kNN": NearestNeighbours,
    "isolation forest": Forest,
}


def baseline_scores(
    baseline: type[Baseline], data: ImageInput | TabularInput, train: Array, rows: Array, seed: int
) -> Array:
    """Fit a baseline and score rows.

    Args:
        baseline: As of `BASELINES`.
        data: What kind of data.
        train: Raw training rows, (N, *data.shape).
        rows: Raw rows to score, (n, *data.shape).
        seed: Of whatever is random in it.

    Returns:
        Shape (n,), larger for the more anomalous; infinite where a row is beyond all numbers.
    """
    features = encoder_features(data, train).eval()
    with torch.no_grad():
        seen, new = (features(torch.from_numpy(part)).double().numpy() for part in (train, rows))
    return np.nan_to_num(baseline(seen, seed).score(new), nan=math.inf, posinf=math.inf)
