"""The model card: one page that needs nothing else, whose figures are the engine's and the manifest's."""

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from scipy.stats import betabinom

from service.bundle import (
    CALIBRATION,
    FORMAT_VERSION,
    GOLDEN,
    Array,
    Calibration,
    CategoricalColumn,
    Graph,
    ImageInput,
    Manifest,
    NumericColumn,
    Provenance,
    TabularInput,
    Tensor,
    describe_files,
    read_bundle,
    write_arrays,
    write_bundle,
)
from service.engine import OnnxEngine
from service.errors import BundleError
from service.scoring import noise, p_values, scores
from service.storage import DEFAULT_REPOSITORY
from tests.training.kinds import KINDS
from training.card import CardInputs, write_card
from training.card.alarms import LEVELS, expected_alarms, threshold
from training.card.page import PAGE, Number
from training.datasets import SplitRecipe, split
from training.datasets.digits import Digits
from training.evaluation.bounds import bounds, held_out_metrics, score_columns
from training.export.graphs import graph_modules
from training.export.onnx import export_graphs, graph_inputs
from training.fit import Epoch
from training.model import ModelRecipe
from training.model.build import build

HOSTILE = "<script>alert('$x^2$')</script>\"><img src=x onerror=alert(1)>&amp;"
EVERYWHERE = [
    *("provenance", "use", "figures", "scores", "calibration"),
    *("strangest", "reconstructions", "samples", "traversals", "latents", "training"),
]
EPOCHS = 12


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


@pytest.fixture(scope="module")
def digits_inputs() -> CardInputs:
    """The embedded bundle and its own test rows; the first has a white pixel where no digit has ink."""
    bundle = read_bundle(DEFAULT_REPOSITORY / "digits" / "1")
    engine = OnnxEngine(bundle.manifest.graphs, bundle.files, "cpu")
    dataset = Digits().load(None)
    test = dataset.rows[split(dataset, SplitRecipe()).test].copy()
    test[0, 3, 0] = 16
    return card_inputs(bundle.manifest, engine, bundle.calibration, test)


class Untrained(NamedTuple):
    """The inputs of a card, and the files of the bundle that it belongs to."""

    inputs: CardInputs
    files: dict[str, bytes]


def untrained(data: ImageInput | TabularInput, rows: Array, likelihood: str, latent_size: int) -> Untrained:
    """A bundle of random weights, calibrated on every other row and tested on the rest."""
    recipe = ModelRecipe(widths=(16,), latent_size=latent_size, likelihood=likelihood)
    modules = graph_modules(build(recipe, data, rows, seed=0).eval(), data, rows)
    del modules["refine"]  # The card makes no use of it, and its export takes longest.
    graphs, files = export_graphs(modules, data, recipe.latent_size)
    engine = OnnxEngine(graphs, files, "cpu")
    base_samples = noise.base_samples(0, 8, latent_size)
    held_out = score_columns(engine, graphs, rows[1::2], base_samples, 0)
    calibration = {"noise": base_samples, **{name: np.sort(values) for name, values in scores(held_out).items()}}
    files |= {
        CALIBRATION: write_arrays(calibration),
        GOLDEN: write_arrays(golden(engine, graphs, rows[:2], base_samples)),
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
        graphs=graphs,
        files=describe_files(files),
        provenance=Provenance(recipe={"data": HOSTILE, "model": recipe.model_dump(mode="json")}),
    )
    return Untrained(card_inputs(manifest, engine, calibration, rows[::2]), files)


def golden(engine: OnnxEngine, graphs: dict[str, Graph], x: Array, base_samples: Array) -> dict[str, Array]:
    latents = engine.run("encoder", {"x": x})["mean"]
    tensors = {}
    for name in graphs:
        by_row, shared = graph_inputs(name, x, base_samples, latents)
        inputs = by_row | shared
        tensors |= {f"{name}.{key}": array for key, array in (inputs | engine.run(name, inputs)).items()}
    return tensors


@pytest.fixture(scope="module")
def table() -> Untrained:
    """A table with hostile names, missing cells, a column of nothing else, and a wild cell in the fourth test row."""
    rng = np.random.default_rng(0)
    columns = (
        NumericColumn(name="height"),
        CategoricalColumn(name=HOSTILE, categories=("plain", HOSTILE, "rare")),
        NumericColumn(name="constant"),
        NumericColumn(name="never seen"),
        NumericColumn(name="体重 $\\frac{1}{"),
    )
    rows = np.column_stack(
        [
            rng.normal(170, 10, 400),
            rng.integers(0, 2, 400),
            np.full(400, 7.0),
            np.full(400, np.nan),
            rng.normal(70, 12, 400),
        ]
    )
    rows[rng.random(400) < 0.2, 0] = np.nan
    rows[6, 4] = 4000.0
    return untrained(TabularInput(columns=columns), rows, "mixed", latent_size=2)


@pytest.fixture(scope="module")
def table_inputs(table: Untrained) -> CardInputs:
    return table.inputs


@pytest.fixture(scope="module")
def colour_inputs() -> CardInputs:
    """Colour images and a single latent."""
    kind = KINDS["colour levels"]
    return untrained(kind.data, kind.rows, "gaussian_shared", latent_size=1).inputs


@cache
def labelled(inputs: CardInputs) -> CardInputs:
    """The same rows, every fifth of them called an anomaly, and figures of a rival."""
    labels = np.arange(len(inputs.test)) % 5 == 0
    return replace(inputs, labels=labels, baselines={HOSTILE: {"AUROC": 0.75}, "kNN": {"AUROC": 0.5, "AP": 0.25}})


CASES: dict[str, Callable[[CardInputs], CardInputs]] = {"unlabelled": lambda inputs: inputs, "labelled": labelled}


@pytest.fixture(scope="module", params=["digits_inputs", "table_inputs", "colour_inputs"])
def unlabelled(request: pytest.FixtureRequest) -> CardInputs:
    inputs: CardInputs = request.getfixturevalue(request.param)
    return inputs


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


@pytest.mark.parametrize("case", CASES)
def test_the_card_is_whole_and_alone(unlabelled: CardInputs, case: str) -> None:
    inputs = CASES[case](unlabelled)
    files = card(inputs)
    page = Page(files)
    assert sorted(page.sections) == sorted(
        [*EVERYWHERE, *(["detection", "baselines"] if inputs.labels is not None else [])]
    )
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


def test_the_same_inputs_give_the_same_bytes(unlabelled: CardInputs) -> None:
    files = card(labelled(unlabelled))
    assert files == write_card(replace(labelled(unlabelled)))
    for name, data in files.items():
        if name != PAGE:
            assert not Image.open(io.BytesIO(data)).info.keys() & {"Software", "date:create", "Creation Time"}


def test_the_figures_are_the_manifest_s(unlabelled: CardInputs) -> None:
    page = Page(card(unlabelled))
    assert page.data["figures"] == list(unlabelled.manifest.metrics.values())
    assert [row[0] for row in page.rows["figures"][1:]] == list(unlabelled.manifest.metrics)
    assert page.data[""][0] == unlabelled.manifest.metrics["test_elbo"]
    shown = page.rows["figures"][1][1].strip().replace("−", "-").replace(",", "")
    assert float(shown) == pytest.approx(unlabelled.manifest.metrics["test_elbo"], rel=1e-5)
    assert f"{unlabelled.manifest.name}, version {unlabelled.manifest.version}" in page.text


@pytest.mark.parametrize("case", CASES)
def test_alarms_are_counted_among_normal_rows(digits_inputs: CardInputs, case: str) -> None:
    inputs = CASES[case](digits_inputs)
    page = Page(card(inputs))
    normal = np.ones(len(inputs.test), bool) if inputs.labels is None else ~inputs.labels
    rows = iter(page.rows["scores"][1:])
    for name in inputs.scores:
        for level in LEVELS:
            row = next(rows)
            assert row[0] == f"{name}, {level} %"
            limit = float(row[1].replace(",", ""))
            p = p_values(inputs.scores[name][normal], inputs.calibration[name])
            assert row[2].startswith(f"{np.sum(p <= level / 100)} of {normal.sum()} ")
            assert abs(np.sum(inputs.scores[name][normal] > limit) - np.sum(p <= level / 100)) <= 1  # Digits not shown.
    assert (
        f"{100 * np.mean(inputs.p_values['negative_elbo'][normal] <= 0.05):.1f}\xa0%"
        in page.text.split("Provenance")[0]
    )


def test_detection_is_by_order_alone(digits_inputs: CardInputs) -> None:
    inputs = labelled(digits_inputs)
    assert inputs.labels is not None
    anomalies, normal = (inputs.scores["negative_elbo"][mask] for mask in (inputs.labels, ~inputs.labels))
    area = np.mean(anomalies[:, None] > normal)  # The probability that an anomaly scores higher (Mann and Whitney).
    assert Page(card(inputs)).data["detection"][0] == pytest.approx(area)
    one_lost = {name: np.where(np.arange(len(s)) == 5, np.nan, s) for name, s in inputs.scores.items()}
    lost = Page(write_card(replace(inputs, scores=one_lost)))  # Row 5 is an anomaly: now it beats every normal row.
    assert lost.data["detection"][0] >= area


def test_hostile_names_are_text(table_inputs: CardInputs) -> None:
    files = card(labelled(table_inputs))
    page = Page(files)
    assert [row[0] for row in page.rows["baselines"][1:]] == [HOSTILE, "kNN"]
    assert HOSTILE in [row[0] for row in page.rows["reconstructions"]]
    assert any(HOSTILE in row[1] for row in page.rows["samples"])
    assert b"<script" not in files[PAGE]


def test_a_strange_pixel_is_found_and_shown(digits_inputs: CardInputs) -> None:
    files = card(digits_inputs)
    assert digits_inputs.strangest(1) == [0]
    tiles = pixels(files["card/strange-1.png"])
    size = tiles.shape[0]
    heat = tiles[:, -size:, :3].astype(int).sum(2)[size // 16 :: size // 8, size // 16 :: size // 8]
    assert heat.shape == (8, 8)
    assert np.unravel_index(np.argmax(heat), heat.shape) == (3, 0)
    usual = np.median(digits_inputs.explain(np.arange(len(digits_inputs.test)))["feature_log_likelihood"], axis=0)
    lost = usual - digits_inputs.explain(np.array([0]))["feature_log_likelihood"][0]
    dark = heat == heat.min()
    assert np.all(dark[lost <= 0])
    assert not np.any(dark[lost > 0.05 * lost.max()])
    assert tiles[size * 3 // 8 + 1, 1].tolist() == [255, 255, 255, 255]
    assert "Row 1000 of the data: negative_elbo" in Page(files).text


def test_a_strange_cell_is_found_and_shown(table_inputs: CardInputs) -> None:
    page = Page(card(table_inputs))
    assert "Row 1003 of the data: negative_elbo" in page.text
    first = page.rows["strangest"][1]
    assert first[:2] == ["体重 $\\frac{1}{", "4,000"]
    assert all("never seen" not in row[0] for row in page.rows["strangest"])
    expected, gained = page.data["strangest"][1:3]
    filled = table_inputs.test[[3, 3]]
    filled[1, 4] = expected
    elbo = bounds(table_inputs.engine, filled, table_inputs.calibration["noise"])["elbo"]
    assert gained == pytest.approx(elbo[1] - elbo[0])


def test_reconstructions_are_the_engine_s(table_inputs: CardInputs) -> None:
    order = np.argsort(table_inputs.scores["negative_elbo"], kind="stable")
    middle = table_inputs.test[order[round((len(order) - 1) / 2)]][None]
    mean = table_inputs.engine.run("encoder", {"x": middle})["mean"]
    expected = table_inputs.engine.run("decoder", {"z": mean})["x_mean"][0]
    weight = next(row for row in Page(card(table_inputs)).rows["reconstructions"] if row[0].startswith("体重"))
    assert [float(cell) for cell in weight[3:5]] == pytest.approx([middle[0, 4], expected[4]], rel=1e-3)


def test_samples_are_the_prior_s(table_inputs: CardInputs) -> None:
    assert table_inputs.prior.shape == (2000, 2)
    np.testing.assert_array_equal(table_inputs.prior, noise.standard_normal(0, (2000, 2)))
    normal, z = (
        Tensor(name=name, dtype="float32", shape=("batch", 2), unit="standard deviations") for name in ("normal", "z")
    )
    uniform = Tensor(name="uniform", dtype="float32", shape=("batch", 1), unit="probability")
    prior = Graph(inputs=(normal, uniform), outputs=(z,))
    values = [
        helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.shape) for tensor in (normal, uniform, z)
    ]
    body = helper.make_graph([helper.make_node("Add", ["normal", "uniform"], ["z"])], "prior", values[:2], values[2:])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.checker.check_model(model)
    engine = OnnxEngine({"prior": prior}, {"prior.onnx": model.SerializeToString()}, "cpu")
    graphs = table_inputs.manifest.graphs | {"prior": prior}
    manifest = table_inputs.manifest.model_copy(update={"graphs": graphs})
    shifted = replace(table_inputs, manifest=manifest, engine=engine).prior - table_inputs.prior
    np.testing.assert_allclose(shifted[:, 0], shifted[:, 1], atol=1e-6)
    assert 0 < shifted.min() < 0.01
    assert shifted.mean() == pytest.approx(0.5, abs=0.03)


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


@pytest.mark.slow
def test_a_run_leaves_a_card(uninterrupted: Path) -> None:
    bundle = read_bundle(uninterrupted / "models" / "arrays" / "1")
    page = Page(dict(bundle.files))
    assert page.data["figures"] == list(bundle.manifest.metrics.values())
    assert len(page.images) == len([name for name in bundle.files if name.endswith(".png")])
    assert bundle.manifest.files.keys() > {PAGE, "card/calibration.png", "card/training-elbo.png"}


@pytest.mark.parametrize("num_held_out", [5, 9, 19, 20, 98, 99, 359])
def test_thresholds_are_where_p_values_reach_their_level(num_held_out: int) -> None:
    held_out = np.sort(np.random.default_rng(num_held_out).integers(0, 60, num_held_out)).astype(float)  # With ties.
    scores = np.arange(-1, 62, 0.5)
    for percent in range(1, 100):
        limit = threshold(held_out, percent)
        # 100 p (n + 1) are whole numbers, which floating-point levels are not.
        reached = np.rint(p_values(scores, held_out) * (num_held_out + 1)) * 100 <= percent * (num_held_out + 1)
        assert np.array_equal(reached, scores > limit if limit is not None else np.zeros(len(scores), bool))


def test_the_range_of_alarms_is_beta_binomial() -> None:
    # With one held-out row the count is uniform on 0, ..., m.
    assert expected_alarms(1, 1, 99) == (2, 97)
    for rank, num_held_out, num_rows in ((1, 99, 50), (5, 99, 1000), (50, 500, 3)):
        exact = betabinom(num_rows, rank, num_held_out + 1 - rank)
        assert expected_alarms(rank, num_held_out, num_rows) == tuple(int(exact.ppf(q)) for q in (0.025, 0.975))


def test_the_range_of_alarms_is_what_happens() -> None:
    rng = np.random.default_rng(1)
    low, high = expected_alarms(5, 99, 200)
    inside = 0
    for _ in range(2000):
        p = p_values(rng.standard_normal(200), np.sort(rng.standard_normal(99)))
        inside += low <= np.sum(p <= 0.05 + 1e-12) <= high
    assert 0.94 < inside / 2000 < 0.985


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
