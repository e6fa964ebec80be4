"""Data sources: each reads one kind of file into a `Dataset`, schema and rows together, or names what is wrong.

A new source is one class in its own file and one entry in `AnySource`.
"""

from typing import Annotated, get_args

from pydantic import Field

from training.datasets.digits import Digits
from training.datasets.download import download
from training.datasets.idx import Idx
from training.datasets.image_folder import ImageFolder
from training.datasets.numpy_arrays import NumpyArrays, array_dataset
from training.datasets.source import Dataset, Source, described
from training.datasets.splits import Indices, SplitRecipe, Splits, split
from training.datasets.table import Table

AnySource = Annotated[Digits | Idx | ImageFolder | NumpyArrays | Table, Field(discriminator="kind")]
"""Any source, as a field of a recipe: `kind` chooses the class, the other keys are its options."""

DATASETS: dict[str, type[Source]] = {
    source.model_fields["kind"].default: source for source in get_args(get_args(AnySource)[0])
}

__all__ = [
    "DATASETS",
    "AnySource",
    "Dataset",
    "Indices",
    "NumpyArrays",
    "Source",
    "SplitRecipe",
    "Splits",
    "array_dataset",
    "described",
    "download",
    "split",
]
