"""The card as a whole: which sections it has, in which order."""

from collections.abc import Iterator

from service.bundle import ImageInput
from training.card import about, images, learning, tables, trust
from training.card.inputs import CardInputs
from training.card.page import Section, render


def write_card(inputs: CardInputs) -> dict[str, bytes]:
    """The card's files, by their names in the bundle: `card/index.html`, which needs no other file, and `card/*.png`.

    The same inputs always give the same bytes.
    """
    title = f"{inputs.manifest.name}, version {inputs.manifest.version}"
    return render(title, about.summary(inputs), about.facts(inputs), list(_sections(inputs)))


def _sections(inputs: CardInputs) -> Iterator[Section]:
    yield from about.sections(inputs)
    yield from trust.sections(inputs)
    match inputs.manifest.input:
        case ImageInput() as data:
            yield from images.sections(inputs, data)
        case data:
            yield from tables.sections(inputs, data)
    yield from learning.sections(inputs)
