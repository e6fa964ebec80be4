"""Inputs: the kinds of data that a model takes, pictures and rows of a table."""

import math
from decimal import Decimal
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MISSING = (
    *("", "na", "n/a", "n.a.", "<na>", "nan", "null", "(null)", "none", "nil", "missing"),
    *("-", "--", "?", ".", "..", "nat", "\\n"),
    *("#n/a", "#na", "#null!", "#div/0!", "#value!", "#ref!", "#name?", "#num!"),
    # As C's library writes NaN on Windows.
    *("1.#qnan", "-1.#qnan", "1.#ind", "-1.#ind"),
)
"""The usual texts for a missing cell, in any case."""

MAX_VALUES = 2**22
"""Values of one instance, such as a picture of 2048 × 2048 pixels: each has a name."""

MAX_SIGNS = 1000
"""Texts that stand for a missing cell: each request looks for all of them."""

MAX_AFFIXES = 200
"""Signs beside the numbers of a column, as many as there are currencies: each cell is looked through for all."""

MAX_TEXT = 1000
ShortText = Annotated[str, Field(max_length=MAX_TEXT)]
"""A name of a column, which answers repeat for each row, or a text for a missing cell."""

Category = bool | Annotated[int, Field(ge=-(2**63), lt=2**63)] | float | str
"""A category's value; JSON is written with no longer whole numbers."""


class Record(BaseModel):
    """Base of the manifest's parts: immutable, and closed to unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PictureReading(Record):
    """How the recipe converts pictures; the service converts those of clients in the same way."""

    resample: Literal["lanczos"] | None = Field(
        default=None, description="How pictures of another size are resized; null: they are refused."
    )
    to_gray: bool = Field(default=False, description="Colours become grey, by Rec. 601; otherwise they are refused.")
    background: Literal["white", "black"] | None = Field(
        default=None, description="What lies behind transparent pixels; null: they are refused."
    )


class ImageInput(Record):
    """Images of one size, as nested arrays (height, width) or (height, width, channels)."""

    kind: Literal["image"] = "image"
    shape: tuple[int, int] | tuple[int, int, int]
    dtype: Literal["uint8", "float32"] = Field(description="uint8: whole levels; float32: any value between.")
    low: float = Field(description="The smallest value a pixel may take (black), in data units.")
    high: float = Field(description="The largest value a pixel may take (white), in data units.")
    reading: PictureReading = Field(default=PictureReading(), description="How image files become instances.")

    @model_validator(mode="after")
    def _domain(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.dtype == "uint8" and not (self.low >= 0 and self.high <= 255):
            raise ValueError(f"uint8 pixels lie in [0, 255], not [{self.low}, {self.high}]")
        if len(self.shape) == 3 and self.shape[2] not in (1, 3):
            raise ValueError(f"images have 1 or 3 channels, not {self.shape[2]}")
        if min(self.shape) < 1 or math.prod(self.shape) > MAX_VALUES:
            raise ValueError(f"shape: {self.shape} has not 1 to {MAX_VALUES:,} values")
        return self

    @property
    def features(self) -> tuple[str, ...]:
        """A name for every value of an instance, in C order: `[row][column]`."""
        return tuple("".join(f"[{i}]" for i in index) for index in np.ndindex(self.shape))


class TimeFormat(Record):
    """How the dates or times of a column are written, beside ISO 8601."""

    order: Literal["ymd", "dmy", "mdy", "clock", "elapsed"] = Field(
        description="Of year, month and day; clock: a time of day alone; elapsed: a duration, as `1 days 02:30:00`."
    )
    zone: bool = Field(default=False, description="Texts name a time zone: seconds are then in UTC, else as written.")
    first_year: int = Field(
        default=1970, ge=1900, le=2099, description="The first of the hundred years that years of two digits mean."
    )


class Derived(Record):
    """The origin of a computed column: a column of dates."""

    source: str = Field(description="The column of dates.")
    part: Literal["hour", "weekday"]


class TrainingRange(Record):
    """The numbers that a column has in the training rows. Samples keep to it; scores know nothing of it."""

    low: float
    high: float
    step: float | None = Field(default=None, gt=0, description="All numbers are `low` plus a whole multiple of it.")
    values: tuple[float, ...] = Field(default=(), description="The numbers themselves, ascending, where they are few.")

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.low > self.high or list(self.values) != sorted(self.values):
            raise ValueError("low, high and values must ascend")
        return self

    def nearest(self, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Give the number of this range that is nearest to each, (N,) to (N,); NaN stays."""
        within = np.clip(numbers, self.low, self.high)
        if self.values:
            values = np.array(self.values)
            above = values.searchsorted(within).clip(1, max(1, len(values) - 1))
            below, above = values[above - 1], values[above.clip(max=len(values) - 1)]
            nearest = np.where(within - below <= above - within, below, above)
            return np.where(np.isnan(within), within, nearest)
        if self.step is None:
            return within
        # Rounded as decimals, the sum is 0.3 and not 0.30000000000000004.
        decimals = max(0, *(-int(Decimal(repr(end)).normalize().as_tuple().exponent) for end in (self.low, self.step)))
        return np.round(self.low + self.step * np.rint((within - self.low) / self.step), decimals)


INFINITE_IS_MISSING = Field(
    default=False, description="Infinite cells count as missing, as the training file had some; else they are wrong."
)


class NumericColumn(Record):
    """A column of numbers or, where it has a `time`, of moments as seconds since 1970.

    The fields from `decimal` on say how texts write the numbers; numbers themselves are taken as they are.
    """

    type: Literal["numeric"] = "numeric"
    name: ShortText
    decimal: Literal[".", ","] = "."
    thousands: Literal["", ",", ".", " ", "'"] = ""
    affixes: tuple[Annotated[str, Field(max_length=20)], ...] = Field(
        default=(), max_length=MAX_AFFIXES, description="Signs before or after numbers, such as € or %."
    )
    time: TimeFormat | None = None
    period: float | None = Field(default=None, gt=0, description="Numbers that differ by it are alike: 24 hours.")
    derived: Derived | None = None
    training_range: TrainingRange | None = Field(default=None, description="The numbers that a sample may have.")
    infinite_is_missing: bool = INFINITE_IS_MISSING


class CategoricalColumn(Record):
    """A column of one of a fixed set of values; a binary column is one with two categories."""

    type: Literal["categorical"] = "categorical"
    name: ShortText
    categories: tuple[Category, ...] = Field(min_length=1, description="Category i enters the graphs as the number i.")
    other: str | None = Field(default=None, description="The category that stands for all values that are none.")
    derived: Derived | None = None
    infinite_is_missing: bool = INFINITE_IS_MISSING

    @model_validator(mode="after")
    def _other_is_a_category(self) -> Self:
        if self.other is not None and self.other not in self.categories:
            raise ValueError(f"other ({self.other!r}) is none of the categories")
        return self


Column = Annotated[NumericColumn | CategoricalColumn, Field(discriminator="type")]


class TextFormat(Record):
    """How the text files of a table are written."""

    delimiter: str = Field(default=",", min_length=1, max_length=1)
    encoding: str = "utf-8"

    @field_validator("encoding")
    @classmethod
    def _of_texts(cls, encoding: str) -> str:
        """Python has others that unpack, or raise errors of their own."""
        try:
            "a".encode(encoding)
        except (LookupError, ValueError) as error:
            raise ValueError(f"{encoding[:40]!r} is no encoding of texts") from error
        return encoding


class TabularInput(Record):
    """Rows of a table. In the graphs a row is float64: numbers in data units, category codes, NaN where missing."""

    kind: Literal["tabular"] = "tabular"
    columns: tuple[Column, ...] = Field(min_length=1)
    dropped: tuple[str, ...] = Field(default=(), description="Columns of the training file that the model is without.")
    missing: tuple[ShortText, ...] = Field(
        default=MISSING, max_length=MAX_SIGNS, description="Texts, in any case, that stand for a missing cell."
    )
    text: TextFormat | None = Field(default=None, description="Of the training file, where that was text.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = {column.name: column for column in self.columns}
        if len(names) < len(self.columns):
            raise ValueError("two columns have the same name")
        for column in self.columns:
            source = names.get(column.derived.source) if column.derived else None
            if column.derived and not (isinstance(source, NumericColumn) and source.time):
                raise ValueError(f"{column.name}: {column.derived.source!r} is no column of dates")
        return self

    @property
    def shape(self) -> tuple[int]:
        return (len(self.columns),)

    @property
    def dtype(self) -> Literal["float64"]:
        return "float64"

    @property
    def features(self) -> tuple[str, ...]:
        """The columns' names, in order."""
        return tuple(column.name for column in self.columns)

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the columns that files and clients give, in order; derived columns are not among them."""
        return tuple(column.name for column in self.columns if column.derived is None)


Input = Annotated[ImageInput | TabularInput, Field(discriminator="kind")]
