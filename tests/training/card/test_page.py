"""The card as a page: whole, needing nothing else, the same at each writing, and with text that is only text."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.bundle import (
    Array,
    CategoricalColumn,
    NumericColumn,
    TabularInput,
    describe_files,
    read_bundle,
    write_bundle,
)
from service.errors import BundleError
from tests.training.card.cards import EPOCHS, EVERYWHERE, HOSTILE, Page, Untrained, card, pixels
from training.card import CardInputs, tables, write_card
from training.card.page import PAGE, Number

IMAGES = ("digits_inputs", "colour_inputs")


def test_the_card_is_whole_and_alone(inputs: CardInputs) -> None:
    files = card(inputs)
    page = Page(files)
    assert sorted(page.sections) == sorted(EVERYWHERE)
    anchors = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert anchors == [f"#{section}" for section in page.sections]

    inlined = []
    for attributes in page.images:
        assert len(attributes["alt"] or "") > 20
        kind, _, content = (attributes["src"] or "").partition(",")
        assert kind == "data:image/png;base64"
        inlined.append(base64.b64decode(content, validate=True))
        assert pixels(inlined[-1]).size
    assert sorted(inlined) == sorted(data for name, data in files.items() if name != PAGE)
    assert all(re.fullmatch(r"card/[a-z0-9_-]+\.png", name) for name in files if name != PAGE)

    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "iframe", "object", "embed", "form", "base", "b"})
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action", "poster"):
            address = attributes.get(name)
            assert address is None or address.startswith(("#", "data:")), (tag, address)
    assert sum(map(len, files.values())) < 2e6


@pytest.mark.parametrize("name", ["table_inputs", *(pytest.param(n, marks=pytest.mark.slow) for n in IMAGES)])
def test_the_same_inputs_give_the_same_bytes(request: pytest.FixtureRequest, name: str) -> None:
    inputs = request.getfixturevalue(name)
    files = card(inputs)
    assert files == write_card(replace(inputs))
    for file, data in files.items():
        if file != PAGE:
            assert not Image.open(io.BytesIO(data)).info.keys() & {"Software", "date:create", "Creation Time"}


def test_the_figures_are_the_manifest_s(inputs: CardInputs) -> None:
    page = Page(card(inputs))
    assert page.data["figures"] == list(inputs.manifest.metrics.values())
    assert [row[0] for row in page.rows["figures"][1:]] == list(inputs.manifest.metrics)
    assert page.data[""][0] == inputs.manifest.metrics["test_elbo"]
    shown = page.rows["figures"][1][1].strip().replace("−", "-").replace(",", "")
    assert float(shown) == pytest.approx(inputs.manifest.metrics["test_elbo"], rel=1e-5)
    assert f"{inputs.manifest.name}, version {inputs.manifest.version}" in page.text


def test_hostile_names_are_text(table_inputs: CardInputs) -> None:
    files = card(table_inputs)
    page = Page(files)
    assert HOSTILE in [row[0] for row in page.rows["reconstructions"]]
    assert any(HOSTILE in row[1] for row in page.rows["samples"])
    assert b"<script" not in files[PAGE]


def test_the_best_epoch_is_named(digits_inputs: CardInputs) -> None:
    text = Page(card(digits_inputs)).text
    assert f"{EPOCHS} epochs; the weights are those of epoch 9" in text
    assert "−101.00 nats" in text or "−101 nats" in text


def test_the_bundle_verifies_its_card(table: Untrained, tmp_path: Path) -> None:
    files = table.files | card(table.inputs)
    manifest = table.inputs.manifest.model_copy(update={"files": describe_files(files)})
    folder = write_bundle(tmp_path, manifest, files)
    assert read_bundle(folder).files == files
    assert (folder / PAGE).read_bytes() == files[PAGE]
    picture = folder / "card" / "calibration.png"
    picture.write_bytes(picture.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=r"card/calibration\.png: SHA-256"):
        read_bundle(folder)


class Moving:
    """The inputs of a card, of which the first latent moves grams, and the second metres."""

    latents, typical, usual = np.array([1, 0]), np.zeros(2), np.arange(2)
    test = np.array([[0.0, 0.0, 0], [2000.0, 0.2, 1]])  # Deviations of 1000 and 0.1.

    def traversal(self, latent: int, steps: int) -> Array:
        return np.linspace(-3, 3, steps)

    def decode(self, z: Array) -> Array:
        grams, metres = z.T
        return np.column_stack([100 * grams + 10 * metres, 0.1 * metres, metres > 0])


def test_the_columns_that_a_latent_moves_are_those_that_change_by_many_deviations() -> None:
    columns = (
        NumericColumn(name="grams"),
        NumericColumn(name="metres"),
        CategoricalColumn(name="size", categories=("small", "large")),
    )
    section = tables._traversals(Moving(), TabularInput(columns=columns))
    assert [[str(cell) for cell in line] for line in section.tables[0].rows] == [
        ["1: metres", "−0.3000", "0", "0.3000"],
        ["1: size", "small", "small", "large"],
        ["0: grams", "−300", "0", "300"],
    ]


@pytest.mark.slow
def test_a_run_leaves_a_card(uninterrupted: Path) -> None:
    bundle = read_bundle(uninterrupted / "models" / "rows" / "1")
    page = Page(dict(bundle.files))
    assert page.data["figures"] == list(bundle.manifest.metrics.values())
    assert len(page.images) == len([name for name in bundle.files if name.endswith(".png")])
    assert bundle.manifest.files.keys() > {PAGE, "card/calibration.png", "card/training-elbo.png"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-90.00996, "−90.01"),
        (12345.678, "12,346"),
        (0.0, "0"),
        (60.0, "60"),
        (0.012345, "0.01235"),
        (5.4e-7, "5.400e−07"),
        (1.5e12, "1.500e+12"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_have_the_digits_one_reads(value: float, text: str) -> None:
    assert str(Number(value)) == text
