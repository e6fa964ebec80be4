"""The card's pictures and rows: the strangest, the reconstructions and the samples are those of the engine."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.bundle import Array, Graph, Tensor
from service.engine import OnnxEngine
from service.scoring import noise
from tests.training.card.cards import Page, card, pixels
from training.card import CardInputs
from training.evaluation.bounds import bounds


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


def test_large_pictures_are_decoded_few_at_once(digits_inputs: CardInputs) -> None:
    sizes = []

    class Engine:
        def run(self, graph: str, inputs: dict[str, Array]) -> dict[str, Array]:
            sizes.append(len(inputs["z"]))
            return {"x_mean": inputs["z"][:, 0]}

    manifest = digits_inputs.manifest
    large = manifest.input.model_copy(update={"shape": (256, 256, 3)})
    inputs = replace(digits_inputs, manifest=manifest.model_copy(update={"input": large}), engine=Engine())
    np.testing.assert_array_equal(inputs.decode(np.arange(50)[:, None]), np.arange(50))
    assert sizes == [20, 20, 10]


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
