"""The training loop."""

from training.fit.loop import Epoch, Progress
from training.fit.options import FitRecipe
from training.fit.rows import sample, training_rows

__all__ = ["Epoch", "FitRecipe", "Progress", "sample", "training_rows"]
