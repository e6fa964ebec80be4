"""The options of the training loop."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class FitRecipe(BaseModel):
    """Options of the training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=200, ge=1, description="Limit of passes over the training rows.")
    steps: int | None = Field(default=None, ge=1, description="Number of steps to train for, instead of epochs.")
    patience: int = Field(
        default=20, ge=1, description="Epochs without a better held-out ELBO after which training stops."
    )
    batch_size: int = Field(default=128, ge=1, description="Rows per step, over all processes.")
    learning_rate: float = Field(default=1e-3, gt=0, description="Learning rate of Adam.")
    schedule: Literal["constant", "cosine", "cooldown"] = Field(
        default="constant",
        description="Schedule of the learning rate; cosine falls to zero over all epochs, cooldown over the last half.",
    )
    objective: Literal["elbo", "importance_weighted"] = Field(default="elbo", description="The bound to maximise.")
    num_draws: int = Field(default=1, ge=1, description="Draws per row and step.")
    warmup_epochs: int = Field(
        default=0, ge=0, description="Epochs over which the weight of the KL rises from 0 to beta."
    )
    beta: float = Field(default=1.0, gt=0, description="Final weight of the KL; 1 is the ELBO.")
    free_bits: float = Field(default=0.0, ge=0, description="Nats of KL per latent that are not penalised.")
    exemplars: int = Field(
        default=0,
        ge=0,
        description="Number of training rows, or groups, that are the prior after training; 0 keeps the trained prior.",
    )
    clip: float = Field(default=100.0, gt=0, description="Limit of the norm of a step's gradient, per row.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the weights, the order of rows and the noise.")
    mixed_precision: Literal["no", "tf32", "fp16", "bf16"] = Field(
        default="no", description="Precision of the networks; tf32 is for matrix products on a GPU."
    )

    @model_validator(mode="after")
    def _one_objective(self) -> Self:
        if self.objective == "importance_weighted" and (self.num_draws < 2 or self.beta != 1 or self.free_bits):
            raise ValueError("importance_weighted takes num_draws of 2 or more, beta of 1 and no free bits")
        return self
