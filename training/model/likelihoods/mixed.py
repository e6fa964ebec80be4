"""Tables of numbers and categories."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from service.bundle import ImageInput, TabularInput
from training.model.likelihoods.asinh import AsinhGaussian
from training.model.likelihoods.categorical import Categorical
from training.model.likelihoods.gaussian import Gaussian, GaussianHeteroscedastic
from training.model.likelihoods.likelihood import Likelihood, LikelihoodError


class Mixed(Likelihood):
    """Tables of numbers and categories: a Gaussian with a learned σ for each number, a softmax for each category.

    Given z the cells are independent; missing ones are left out of the sum, so that the bound is one on the observed
    cells alone (Nazábal et al. 2020, "Handling incomplete heterogeneous data using VAEs").
    """

    numeric: ClassVar[type[Likelihood]] = Gaussian

    by_kind: Tensor
    order: Tensor

    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__(data, rows)
        if not isinstance(data, TabularInput):
            raise LikelihoodError("mixed is a likelihood of tables")
        kinds: list[Likelihood] = []
        by_kind: list[list[int]] = []
        for kind, likelihood in (("numeric", self.numeric), ("categorical", Categorical)):
            places = [i for i, column in enumerate(data.columns) if column.type == kind]
            if places:
                alone = tuple(data.columns[i].model_copy(update={"derived": None}) for i in places)
                columns = TabularInput(columns=alone)
                kinds.append(likelihood(columns, rows[:, places]))
                by_kind.append(places)
        self.kinds = nn.ModuleList(kinds)
        self.sizes = [kind.num_params for kind in kinds]
        self.num_params = sum(self.sizes)
        # Features are computed kind by kind, and put back into the table's order.
        self.counts = [len(places) for places in by_kind]
        self.register_buffer("by_kind", torch.tensor(np.concatenate(by_kind)))
        self.register_buffer("order", self.by_kind.argsort())

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return self._joined([k.log_prob(p, v) for k, p, v in zip(*self._split(params), self._sorted(x), strict=True)])

    def log_likelihood(self, params: Tensor, x: Tensor) -> Tensor:
        parts = zip(*self._split(params), self._sorted(x), strict=True)
        first, *others = (kind.log_likelihood(p, values) for kind, p, values in parts)
        return sum(others, first)

    def mean(self, params: Tensor) -> Tensor:
        return self._joined([kind.mean(p) for kind, p in zip(*self._split(params), strict=True)])

    def sample(self, params: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
        parts = zip(*self._split(params), self._sorted(normal), self._sorted(uniform), strict=True)
        return self._joined([kind.sample(p, n, u) for kind, p, n, u in parts])

    def _split(self, params: Tensor) -> tuple[Iterable[Likelihood], Sequence[Tensor]]:
        """The likelihood of each kind of columns, and its parameters."""
        return cast("Iterable[Likelihood]", self.kinds), params.split(self.sizes, -1)

    def _sorted(self, x: Tensor) -> Sequence[Tensor]:
        """The columns (..., D) of each kind."""
        return x.index_select(-1, self.by_kind).split(self.counts, -1)

    def _joined(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts, -1).index_select(-1, self.order)


class MixedHeteroscedastic(Mixed):
    """As `Mixed`, with a σ for each number of each instance."""

    numeric = GaussianHeteroscedastic


class MixedAsinh(Mixed):
    """As `Mixed`, with a Gaussian on an asinh scale for each number, and one σ for all of them."""

    numeric = AsinhGaussian
    asinh_scale = True
