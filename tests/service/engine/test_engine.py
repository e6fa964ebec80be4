"""Graphs are what the manifest says, read nothing but verified bytes, and give the golden answers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

from service.bundle import GOLDEN, WEIGHTS, Bundle, read_bundle, write_arrays
from service.bundle.arrays import read_arrays
from service.bundle.graphs import graph_contract
from service.engine import RELATIVE_TOLERANCE, EngineFactory, OnnxEngine, golden_error
from service.errors import BundleError
from service.inference import ModelLoader
from service.storage import LocalStore
from tests.service.bundle.test_bundle import LIMITS, Table
from tests.service.bundle_versions import replace
from tests.service.toy_bundles import TABLE_GRAPHS, table_files


def graph_of(name: str, inputs: dict[str, tuple[int, list[Any]]], outputs: dict[str, tuple[int, list[Any]]]) -> bytes:
    """A graph whose every output is made of the first input's sum, in the dtypes and shapes asked for."""
    first = next(iter(inputs))
    nodes = [
        helper.make_node("Cast", [first], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("ReduceSum", ["wide"], ["total"], keepdims=0),
        helper.make_node("Shape", [first], ["rows"], end=1),
    ]
    for i, (output, (dtype, shape)) in enumerate(outputs.items()):
        value = helper.make_tensor(f"rest{i}", TensorProto.INT64, [len(shape) - 1], shape[1:])
        nodes.append(helper.make_node("Constant", [], [f"rest{i}"], value=value))
        nodes.append(helper.make_node("Concat", ["rows", f"rest{i}"], [f"shape{i}"], axis=0))
        nodes.append(helper.make_node("Expand", ["total", f"shape{i}"], [f"expanded{i}"]))
        nodes.append(helper.make_node("Cast", [f"expanded{i}"], [output], to=dtype))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(key, *value) for key, value in inputs.items()],
        [helper.make_tensor_value_info(key, *value) for key, value in outputs.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


FLOAT, DOUBLE, BYTES = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.UINT8
X, MEAN = (DOUBLE, ["batch", 2]), (FLOAT, ["batch", 2])


@pytest.mark.parametrize(
    ("inputs", "outputs", "named"),
    [
        ({"y": X}, {"mean": MEAN, "log_variance": MEAN}, "inputs are y; the manifest says x"),
        ({"x": X, "seed": X}, {"mean": MEAN, "log_variance": MEAN}, "inputs are x, seed; the manifest says x"),
        ({"x": X}, {"mean": MEAN}, "outputs are mean; the manifest says mean, log_variance"),
        ({"x": (FLOAT, ["batch", 2])}, {"mean": MEAN, "log_variance": MEAN}, r"input x is tensor\(float\) of shape"),
        ({"x": (BYTES, ["batch", 2])}, {"mean": MEAN, "log_variance": MEAN}, r"input x is tensor\(uint8\) of shape"),
        ({"x": (DOUBLE, ["batch", 3])}, {"mean": MEAN, "log_variance": MEAN}, r"input x .*shape \['batch', 3\]"),
        ({"x": (DOUBLE, [1, 2])}, {"mean": MEAN, "log_variance": MEAN}, r"input x .*shape \[1, 2\]"),
        ({"x": (DOUBLE, ["batch", "n"])}, {"mean": MEAN, "log_variance": MEAN}, r"input x .*shape \['batch', 'n'\]"),
        ({"x": X}, {"mean": (DOUBLE, ["batch", 2]), "log_variance": MEAN}, r"output mean is tensor\(double\)"),
        ({"x": X}, {"mean": MEAN, "log_variance": (FLOAT, ["batch"])}, r"output log_variance .*the manifest says"),
    ],
)
def test_a_graph_must_be_what_the_manifest_says(
    table_bundle: Path,
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any]]],
    named: str,
) -> None:
    replace(table_bundle, "encoder.onnx", graph_of("encoder", inputs, outputs))
    bundle = read_bundle(table_bundle)
    with pytest.raises(BundleError, match=rf"encoder\.onnx: {named}"):
        OnnxEngine(bundle.manifest.graphs, bundle.files, "cpu")


def test_sizes_chosen_at_run_time_may_have_any_name(table_bundle: Path) -> None:
    wanted = {"mean": (FLOAT, ["N", 2]), "log_variance": (FLOAT, [None, 2])}
    replace(table_bundle, "encoder.onnx", graph_of("encoder", {"x": (DOUBLE, ["rows", 2])}, wanted))
    bundle = read_bundle(table_bundle)
    engine = OnnxEngine(bundle.manifest.graphs, bundle.files, "cpu")
    assert engine.run("encoder", {"x": np.ones((1, 2))})["mean"].tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize("data", [b"", b"no graph", "TRUNCATED"])
def test_what_is_no_graph_is_refused(table_bundle: Path, data: bytes | str) -> None:
    whole = (table_bundle / "elbo.onnx").read_bytes()
    replace(table_bundle, "elbo.onnx", whole[: len(whole) // 2] if isinstance(data, str) else data)
    bundle = read_bundle(table_bundle)
    with pytest.raises(BundleError, match=r"elbo\.onnx: "):
        OnnxEngine(bundle.manifest.graphs, bundle.files, "cpu")


def externalised(location: str) -> bytes:
    """The encoder of a table, its mean a tensor of 8 bytes that lies in another file."""
    tensor = onnx.TensorProto(name="mean_value", data_type=FLOAT, dims=[1, 2], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "8"}.items():
        tensor.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["narrow"], to=FLOAT),
            helper.make_node("Sub", ["narrow", "narrow"], ["log_variance"]),
            helper.make_node("Add", ["log_variance", "mean_value"], ["mean"]),
        ],
        "encoder",
        [helper.make_tensor_value_info("x", *X)],
        [helper.make_tensor_value_info("mean", *MEAN), helper.make_tensor_value_info("log_variance", *MEAN)],
        [tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("location", ["../secret", "secret", "sub/../../secret", "ABSOLUTE"])
def test_no_graph_reads_the_disk(
    table_bundle: Path, table: Table, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = np.array([1, 2], np.float32).tobytes()
    for folder in (table_bundle, table_bundle.parent):
        (folder / "secret").write_bytes(secret)
    monkeypatch.chdir(table_bundle)  # The folder to which a path would lead, if one were followed.
    graph = externalised(str(table_bundle / "secret") if location == "ABSOLUTE" else location)
    manifest, files = table
    with pytest.raises(
        BundleError, match=r"encoder\.onnx: a tensor lies in .*; external data lie in weights\.bin only"
    ):
        OnnxEngine(manifest.graphs, files | {"encoder.onnx": graph}, "cpu")
    with pytest.raises(
        BundleError, match=r"encoder\.onnx: a tensor lies in .*; external data lie in weights\.bin only"
    ):
        OnnxEngine(manifest.graphs, files | {"encoder.onnx": graph, WEIGHTS: secret}, "cpu")


def test_shared_weights_come_from_the_verified_bytes(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / WEIGHTS).write_bytes(np.array([3, 4], np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    manifest, files = table
    files |= {"encoder.onnx": externalised(WEIGHTS), WEIGHTS: np.array([1, 2], np.float32).tobytes()}
    engine = OnnxEngine(manifest.graphs, files, "cpu")
    assert engine.run("encoder", {"x": np.zeros((1, 2))})["mean"].tolist() == [[1.0, 2.0]]


def test_weights_that_end_too_soon_are_refused(table: Table) -> None:
    manifest, files = table
    with pytest.raises(BundleError, match=r"encoder\.onnx: ONNX Runtime cannot load it"):
        OnnxEngine(manifest.graphs, files | {"encoder.onnx": externalised(WEIGHTS), WEIGHTS: b"1234"}, "cpu")


@pytest.mark.parametrize("change", [1.0, -1.0, np.nan])
def test_an_engine_that_misses_the_golden_rows_does_not_serve(table_bundle: Path, change: float) -> None:
    arrays = read_arrays((table_bundle / GOLDEN).read_bytes(), GOLDEN)
    arrays["elbo.elbo"][0] += change
    replace(table_bundle, GOLDEN, write_arrays(arrays))
    with pytest.raises(BundleError, match=r"the golden ELBOs are .* times the tolerance away"):
        ModelLoader(LocalStore(table_bundle.parent.parent), None, EngineFactory("cpu"), LIMITS)


@pytest.mark.parametrize("graph", ["encoder", "decoder", "elbo", "explain", "draw"])
def test_every_golden_answer_is_what_the_default_bundle_computes(digits_bundle: Bundle, graph: str) -> None:
    engine = OnnxEngine(digits_bundle.manifest.graphs, digits_bundle.files, "cpu")
    golden = digits_bundle.golden[graph]
    contract = graph_contract(graph, digits_bundle.manifest.input, digits_bundle.manifest.latent_size)
    answer = engine.run(graph, {tensor.name: golden[tensor.name] for tensor in contract.inputs})
    for tensor in contract.outputs:
        np.testing.assert_allclose(answer[tensor.name], golden[tensor.name], rtol=1e-5, atol=1e-3)


def test_the_golden_error_is_that_of_the_worst_row(digits_bundle: Bundle) -> None:
    elbo = digits_bundle.golden["elbo"]["elbo"].copy()
    elbo[1] += 2 * (digits_bundle.manifest.tolerance + RELATIVE_TOLERANCE * abs(elbo[1]))
    assert golden_error({"elbo": elbo}, digits_bundle) == pytest.approx(2)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_golden_elbo_that_is_no_number_is_infinitely_wrong(digits_bundle: Bundle, wrong: float) -> None:
    elbo = digits_bundle.golden["elbo"]["elbo"].copy()
    assert golden_error({"elbo": elbo}, digits_bundle) == 0
    elbo[1] = wrong
    assert golden_error({"elbo": elbo}, digits_bundle) == np.inf


TURNS = """
        sums = Sub (log_likelihood, kl)
        size = Constant <value = int64[2] {{-1, 1}}> ()
        most = Constant <value = double {{5.0}}> ()
        largest = ReduceMax <keepdims = 0> (filled)
        is_other = Greater (largest, most)
        elbo = If (is_other) <
            then_branch = other () => (double[rows, ones] column) {{ {answer} }},
            else_branch = usual () => (double[batch] same) {{ same = Identity (sums) }}
        >"""


@pytest.mark.parametrize(
    "answer", ["column = Reshape (sums, size)", "column = ReduceSum <keepdims = 0> (sums)"], ids=["column", "number"]
)
def test_answers_of_another_shape_than_the_golden_ones_are_an_error(answer: str) -> None:
    """An `If` can give them for other rows. Joined with those of other requests, they would be in the wrong places."""
    text = TABLE_GRAPHS["elbo"].replace("elbo = Sub (log_likelihood, kl)", TURNS.format(answer=answer))
    manifest, files = table_files()
    files |= {"elbo.onnx": onnx.parser.parse_model(text).SerializeToString()}
    engine = OnnxEngine(manifest.graphs, files, "cpu")
    noise = np.zeros((4, 2), np.float32)
    assert engine.run("elbo", {"x": np.ones((3, 2)), "noise": noise})["elbo"].shape == (3,)
    with pytest.raises(ValueError, match=r"elbo.onnx: elbo has shape \((3, 1)?\); a row's is \(\)"):
        engine.run("elbo", {"x": np.full((3, 2), 9.0), "noise": noise})
