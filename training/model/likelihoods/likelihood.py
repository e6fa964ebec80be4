"""What a likelihood p(x|z) is.

A decoder turns z into `num_params` numbers per instance; a likelihood says what they mean. Shapes: `params` (...,
num_params); `x`, and everything per feature, (..., D), the D values of an instance in C order.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy.typing as npt
from torch import Tensor, nn

from service.bundle import ImageInput, TabularInput
from service.errors import LowerboundError


class LikelihoodError(LowerboundError):
    """A likelihood that the data cannot have. The message names what does not fit."""


class Likelihood(nn.Module, ABC):
    """p(x|z) as a function of the decoder's outputs.

    Args:
        data: What kind of data.
        rows: The training rows, raw, shape (N, *data.shape).

    Raises:
        LikelihoodError: The data is not of the kind that this likelihood is a distribution of.
    """

    num_params: int
    asinh_scale: ClassVar[bool] = False
    """Whether numbers of tables are on an asinh scale, for the encoder as well."""

    @abstractmethod
    def __init__(self, data: ImageInput | TabularInput, rows: npt.NDArray[Any]) -> None:
        super().__init__()

    @abstractmethod
    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Log p(x_d|z) in nats for each feature; 0 where x is missing. Broadcasts over the leading dimensions."""

    def log_likelihood(self, params: Tensor, x: Tensor) -> Tensor:
        """Log p(x|z) in nats, the sum over features, (...), float64."""
        return self.log_prob(params, x).double().sum(-1)

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """E[x|z] in data units; for a table's categories the most probable one's code."""

    @abstractmethod
    def sample(self, params: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
        """A draw from p(x|z), made from N(0, 1) and from open-interval uniform noise, both of shape (..., D)."""
