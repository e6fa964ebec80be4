"""Graphs: the inputs and outputs that the contract gives to each."""

import math
from typing import Literal

import numpy as np
from pydantic import Field

from service.bundle.inputs import ImageInput, Record, TabularInput

REQUIRED_GRAPHS = ("encoder", "decoder", "elbo")
OPTIONAL_GRAPHS = ("explain", "draw", "prior", "refine", "scores")
BOUNDS = ("elbo", "log_likelihood", "kl", "standard_error", "log_evidence", "ess")


class Tensor(Record):
    """One named input or output of a graph."""

    name: str
    dtype: Literal["float32", "float64", "uint8"]
    shape: tuple[int | str, ...] = Field(description="Sizes; a name stands for a size chosen at run time.")
    unit: str

    @property
    def is_by_row(self) -> bool:
        """Whether it has an entry for each row, and is not shared by all."""
        return self.shape[0] == "batch"

    @property
    def row_bytes(self) -> int:
        """Bytes of its entry for a row."""
        return int(np.dtype(self.dtype).itemsize) * math.prod(self.sizes(1, 1))

    def sizes(self, rows: int, draws: int) -> list[int]:
        """The shape with so many rows and draws."""
        return [{"batch": rows, "draws": draws}[size] if isinstance(size, str) else size for size in self.shape]


class Graph(Record):
    """A graph's inputs and outputs, in order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def graph_contract(graph: str, data: ImageInput | TabularInput, latent_size: int) -> Graph:
    """The inputs and outputs that the contract gives to `graph` for this kind of data and latent size."""

    def per_row(name: str, *shape: int, dtype: Literal["float32", "float64", "uint8"], unit: str) -> Tensor:
        return Tensor(name=name, dtype=dtype, shape=("batch", *shape), unit=unit)

    x = per_row("x", *data.shape, dtype=data.dtype, unit="data")
    # Answers in data units are not rounded to the levels of the data: an expectation lies between them.
    answer: Literal["float32", "float64"] = "float64" if data.kind == "tabular" else "float32"
    z = per_row("z", latent_size, dtype="float32", unit="latent")
    noise = Tensor(name="noise", dtype="float32", shape=("draws", latent_size), unit="standard deviations")
    bounds = tuple(
        per_row(name, dtype="float64", unit="share of draws" if name == "ess" else "nats") for name in BOUNDS
    )
    mean = per_row("mean", latent_size, dtype="float32", unit="latent")
    log_variance = per_row("log_variance", latent_size, dtype="float32", unit="log latent²")
    x_mean = per_row("x_mean", *data.shape, dtype=answer, unit="data")
    state = (
        mean,
        log_variance,
        per_row("first_moment", 2 * latent_size, dtype="float32", unit="nats per unit of mean and of log_variance"),
        per_row("second_moment", 2 * latent_size, dtype="float32", unit="those of first_moment, squared"),
        per_row("step", dtype="float32", unit="steps"),
    )
    next_state = tuple(tensor.model_copy(update={"name": f"next_{tensor.name}"}) for tensor in state)

    def normal(size: int) -> Tensor:
        return per_row("normal", size, dtype="float32", unit="standard deviations")

    def uniform(size: int) -> Tensor:
        return per_row("uniform", size, dtype="float32", unit="probability")

    size = math.prod(data.shape)
    explanation = (
        per_row("feature_log_likelihood", *data.shape, dtype="float64", unit="nats"),
        per_row("latent_kl", latent_size, dtype="float64", unit="nats"),
    )
    typicality = per_row("typicality", dtype="float64", unit="squared standard deviations")
    multiscale_residual = per_row("multiscale_residual", dtype="float64", unit="those of usual pictures")
    contract = {
        "encoder": Graph(inputs=(x,), outputs=(mean, log_variance)),
        "decoder": Graph(inputs=(z,), outputs=(x_mean,)),
        "elbo": Graph(inputs=(x, noise), outputs=bounds),
        "explain": Graph(inputs=(x, noise), outputs=explanation),
        "draw": Graph(inputs=(z, normal(size), uniform(size)), outputs=(x_mean.model_copy(update={"name": "x"}),)),
        "prior": Graph(inputs=(normal(latent_size), uniform(1)), outputs=(z,)),
        "refine": Graph(inputs=(x, noise, *state), outputs=(*bounds, *next_state)),
        "scores": Graph(
            inputs=(x,), outputs=(typicality, multiscale_residual) if data.kind == "image" else (typicality,)
        ),
    }
    return contract[graph]
