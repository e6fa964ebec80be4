"""Tables of numbers and categories.

This module must not know about networks, priors or training.
"""

from collections.abc import Iterable
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from service.manifest import ImageInput, TabularInput
from training.likelihoods.categorical import Categorical
from training.likelihoods.gaussian import Gaussian, GaussianHeteroscedastic
from training.likelihoods.likelihood import Likelihood, LikelihoodError
from training.likelihoods.student_t import StudentT


class Mixed(Likelihood):
    """Tables of numbers and categories: a Gaussian with a learned σ for each number, a softmax for each category.

    Given z the cells are independent; missing ones are left out of the sum, so that the bound is one on the observed
    cells alone (Nazábal et al. 2020, "Handling incomplete heterogeneous data using VAEs").
    """

    numeric: ClassVar[type[Likelihood]] = Gaussian

    order: Tensor

    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__(data, rows)
        if not isinstance(data, TabularInput):
            raise LikelihoodError("mixed is a likelihood of tables")
        kinds: list[Likelihood] = []
        self.places: list[list[int]] = []
        for kind, likelihood in (("numeric", self.numeric), ("categorical", Categorical)):
            places = [i for i, column in enumerate(data.columns) if column.type == kind]
            if places:
                columns = TabularInput(columns=tuple(data.columns[i] for i in places))
                kinds.append(likelihood(columns, rows[:, places]))
                self.places.append(places)
        self.kinds = nn.ModuleList(kinds)
        self.sizes = [kind.num_params for kind in kinds]
        self.num_params = sum(self.sizes)
        # Features are computed kind by kind; this puts them back into the table's order.
        self.register_buffer("order", torch.tensor(np.argsort(np.concatenate(self.places))))

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return self._joined([kind.log_prob(p, x[..., i]) for kind, p, i in self._split(params)])

    def mean(self, params: Tensor) -> Tensor:
        return self._joined([kind.mean(p) for kind, p, _ in self._split(params)])

    def sample(self, params: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
        return self._joined([kind.sample(p, normal[..., i], uniform[..., i]) for kind, p, i in self._split(params)])

    def _split(self, params: Tensor) -> list[tuple[Likelihood, Tensor, list[int]]]:
        """Each kind of columns: its likelihood, its parameters and its places in the table."""
        kinds = cast("Iterable[Likelihood]", self.kinds)
        return list(zip(kinds, params.split(self.sizes, -1), self.places, strict=True))

    def _joined(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts, -1).index_select(-1, self.order)


class MixedHeteroscedastic(Mixed):
    """As `Mixed`, with a σ for each number of each instance."""

    numeric = GaussianHeteroscedastic


class MixedStudentT(Mixed):
    """As `Mixed`, with Student's t for each number."""

    numeric = StudentT
