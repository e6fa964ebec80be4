"""The page: sections of text, pictures and tables, and the template that makes one HTML file of them."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

PAGE = "card/index.html"


@dataclass(frozen=True)
class Picture:
    """A PNG file, `card/<name>.png`, and what it shows."""

    name: str
    png: bytes
    alt: str
    """Its description for readers who do not see it, with the main figures."""
    caption: str
    pixels: bool = False
    """Made of data, not of lines: it keeps its colours on a dark page, and its edges when enlarged."""

    @property
    def uri(self) -> str:
        """The picture itself as an address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Number:
    """A figure, shown with as many digits as one reads, its exact value kept beside."""

    value: float
    digits: int = 4

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return str(self.value)
        magnitude = math.floor(math.log10(abs(self.value))) if self.value else 0
        if self.value and not -4 <= magnitude < 9:
            return f"{self.value:.{self.digits - 1}e}".replace("-", "−")
        decimals = 0 if self.value.is_integer() else max(0, self.digits - 1 - magnitude)
        return f"{self.value:,.{decimals}f}".replace("-", "−")


@dataclass(frozen=True)
class Bar:
    """A number drawn as a bar of so many percent of the cell."""

    number: Number
    percent: float


Cell = str | Number | Bar


def percent(share: float, decimals: int = 1) -> str:
    """A share of one, in percent, that no line break takes apart."""
    return f"{100 * share:.{decimals}f}\N{NO-BREAK SPACE}%"


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of each names it."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Scale:
    """The colours of the pictures, and what their ends mean."""

    picture: Picture
    low: str
    high: str


@dataclass(frozen=True)
class Section:
    """What stands under one heading. Paragraphs, set apart by empty lines; tables; pictures; `folded` text by title."""

    id: str
    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    folded: dict[str, str] = field(default_factory=dict)
    scale: Scale | None = None
    small: bool = False
    """Whether more than two pictures may stand side by side."""


def render(title: str, summary: str, facts: dict[str, Cell], sections: Sequence[Section]) -> dict[str, bytes]:
    """The card's files by name: the page, which needs no other, and its pictures. Everything is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("card.html").render(title=title, summary=summary, facts=facts, sections=sections)
    pictures = [picture for section in sections for picture in section.pictures]
    pictures += [section.scale.picture for section in sections if section.scale]
    return {PAGE: page.encode()} | {f"card/{picture.name}.png": picture.png for picture in pictures}
