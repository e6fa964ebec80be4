"""Inputs of model cards, the cards made of them, and the documents that a browser would make of these."""

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from html.parser import HTMLParser
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from service.bundle import (
    CALIBRATION,
    FORMAT_VERSION,
    GOLDEN,
    Array,
    Calibration,
    ImageInput,
    Manifest,
    Provenance,
    TabularInput,
    describe_files,
    write_arrays,
)
from service.engine import OnnxEngine
from service.scoring import noise, scores
from training.card import CardInputs, write_card
from training.card.page import PAGE
from training.evaluation.bounds import held_out_metrics, score_columns
from training.export.graphs import graph_modules
from training.export.onnx import export_graphs
from training.fit import Epoch
from training.model import ModelRecipe
from training.model.build import build
from training.publish import golden_rows

HOSTILE = "<script>alert('$x^2$')</script>\"><img src=x onerror=alert(1)>&amp;"
EVERYWHERE = [
    *("provenance", "use", "figures", "scores", "calibration"),
    *("strangest", "reconstructions", "samples", "traversals", "latents", "training"),
]
EPOCHS = 12
USED = ("encoder", "decoder", "elbo", "explain", "scores", "draw", "prior")
"""Graphs that cards make use of; the export of the other one takes longest."""


def history() -> list[Epoch]:
    """Rises, is best at the ninth epoch, and falls."""
    epochs = []
    for epoch in range(1, EPOCHS + 1):
        elbo = -100.0 - (epoch - 9) ** 2
        epochs.append(
            Epoch(epoch, 0.1, 1.0, -elbo, elbo + 5, 5.0, elbo - 1, elbo + 4, 5.0, elbo + 1, min(epoch, 3), 4.0, 1.0)
        )
    return epochs


def card_inputs(manifest: Manifest, engine: OnnxEngine, calibration: Any, test: Array, **more: Any) -> CardInputs:
    held_out = score_columns(engine, manifest.graphs, test, calibration["noise"], 0)
    manifest = manifest.model_copy(update={"metrics": held_out_metrics(held_out) | {"epochs": float(EPOCHS)}})
    epochs = history()
    return CardInputs(
        manifest, engine, calibration, epochs, epochs[8], test, 1000 + np.arange(len(test)), scores(held_out), **more
    )


class Untrained(NamedTuple):
    """The inputs of a card, and the files of the bundle that it belongs to."""

    inputs: CardInputs
    files: dict[str, bytes]


def untrained(
    data: ImageInput | TabularInput, rows: Array, likelihood: str, latent_size: int, graphs: Sequence[str] = USED
) -> Untrained:
    """A bundle of random weights, calibrated on every other row and tested on the rest."""
    recipe = ModelRecipe(widths=(16,), latent_size=latent_size, likelihood=likelihood)
    modules = graph_modules(build(recipe, data, rows, seed=0).eval(), data, rows)
    contracts, files = export_graphs({name: modules[name] for name in graphs}, data, recipe.latent_size)
    engine = OnnxEngine(contracts, files, "cpu")
    base_samples = noise.base_samples(0, 8, latent_size)
    held_out = score_columns(engine, contracts, rows[1::2], base_samples, 0)
    calibration = {"noise": base_samples, **{name: np.sort(values) for name, values in scores(held_out).items()}}
    files |= {
        CALIBRATION: write_arrays(calibration),
        GOLDEN: write_arrays(golden_rows(engine, contracts, rows[:2], base_samples)),
    }
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name="untrained",
        version=3,
        created=datetime(2026, 1, 2, tzinfo=UTC),
        input=data,
        latent_size=latent_size,
        likelihood=likelihood,
        prior="standard_normal",
        num_draws=8,
        seed=0,
        scores=tuple(scores(held_out)),
        default_score="negative_elbo",
        calibration=Calibration.of(len(rows[1::2])),
        tolerance=1e-3,
        graphs=contracts,
        files=describe_files(files),
        provenance=Provenance(recipe={"data": HOSTILE, "model": recipe.model_dump(mode="json")}),
    )
    return Untrained(card_inputs(manifest, engine, calibration, rows[::2]), files)


@cache
def card(inputs: CardInputs) -> dict[str, bytes]:
    """The card's files, made once."""
    return write_card(inputs)


class Page(HTMLParser):
    """The document that a browser would make of the card; tags that do not match are an error."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.section = ""
        self.text = ""
        self.images: list[dict[str, str | None]] = []
        self.sections: list[str] = []
        self.rows: dict[str, list[list[str]]] = {}
        self.data: dict[str, list[float]] = {}
        self._open: list[str] = []
        self.feed(files[PAGE].decode())
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "section":
            self.sections.append(attributes["id"] or "")
        here = self.sections[-1] if self.sections else ""
        if tag == "img":
            self.images.append(attributes)
        elif tag == "tr":
            self.rows.setdefault(here, []).append([])
        elif tag in {"td", "th"}:
            self.rows[here][-1].append("")
        elif tag == "data":
            self.data.setdefault(here, []).append(float(attributes["value"] or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            assert "url(" not in data
            assert "@import" not in data
            return
        self.text += data
        if self._open and {"td", "th"} & set(self._open):
            self.rows[self.sections[-1]][-1][-1] += data


def pixels(png: bytes) -> Array:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
