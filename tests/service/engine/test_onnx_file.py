"""A graph reads its own bytes and `weights.bin`, and has standard operators only, wherever it hides something else."""

import random
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from service.bundle import WEIGHTS, Bundle
from service.engine.onnx_file import check_graph
from service.errors import BundleError
from tests.service.toy_bundles import TABLE_GRAPHS

FLOAT = TensorProto.FLOAT


def tensor(location: str | bytes = WEIGHTS, name: str = "value") -> TensorProto:
    """A tensor of 8 bytes that lies in another file."""
    found = TensorProto(name=name, data_type=FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    entry = found.external_data.add(key="location")
    entry.MergeFromString(
        b"\x12" + bytes([len(location)]) + (location.encode() if isinstance(location, str) else location)
    )
    return found


def body(inner: TensorProto) -> GraphProto:
    output = helper.make_tensor_value_info("out", FLOAT, [2])
    return helper.make_graph([helper.make_node("Identity", ["value"], ["out"])], "body", [], [output], [inner])


def model_of(*nodes: NodeProto, **parts: object) -> ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(list(nodes), "g", [value("x", FLOAT, [2])], [value("y", FLOAT, [2])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, **parts)


def identity() -> NodeProto:
    return helper.make_node("Identity", ["x"], ["y"])


def in_initializer(inner: TensorProto) -> ModelProto:
    model = model_of(identity())
    model.graph.initializer.append(inner)
    return model


def in_sparse_initializer(inner: TensorProto) -> ModelProto:
    model = model_of(identity())
    model.graph.sparse_initializer.add(dims=[8]).values.CopyFrom(inner)
    return model


def in_sparse_indices(inner: TensorProto) -> ModelProto:
    model = model_of(identity())
    model.graph.sparse_initializer.add(dims=[8]).indices.CopyFrom(inner)
    return model


def in_constant(inner: TensorProto) -> ModelProto:
    return model_of(helper.make_node("Constant", [], ["y"], value=inner))


def in_tensors(inner: TensorProto) -> ModelProto:
    node = identity()
    node.attribute.append(AttributeProto(name="all", type=AttributeProto.TENSORS, tensors=[inner]))
    return model_of(node)


def in_branch(inner: TensorProto) -> ModelProto:
    return model_of(helper.make_node("If", ["x"], ["y"], then_branch=body(inner), else_branch=body(inner)))


def in_nested_loop(inner: TensorProto) -> ModelProto:
    output = helper.make_tensor_value_info("out", FLOAT, [2])
    loop = helper.make_node("Loop", ["", ""], ["out"], body=body(inner))
    branch = helper.make_graph([loop], "outer", [], [output])
    return model_of(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))


def in_graphs(inner: TensorProto) -> ModelProto:
    node = identity()
    node.attribute.append(AttributeProto(name="all", type=AttributeProto.GRAPHS, graphs=[body(inner)]))
    return model_of(node)


def in_function(inner: TensorProto) -> ModelProto:
    constant = helper.make_node("Constant", [], ["out"], value=inner)
    function = helper.make_function("mine", "f", ["a"], ["out"], [constant], [helper.make_opsetid("", 20)])
    return model_of(helper.make_node("f", ["x"], ["y"], domain="mine"), functions=[function])


def in_function_default(inner: TensorProto) -> ModelProto:
    model = in_function(helper.make_tensor("value", FLOAT, [2], [1.0, 2.0]))
    model.functions[0].attribute_proto.append(helper.make_attribute("value", inner))
    return model


def in_training(inner: TensorProto) -> ModelProto:
    model = model_of(identity())
    model.training_info.add().algorithm.CopyFrom(body(inner))
    return model


PLACES = [
    in_initializer,
    in_sparse_initializer,
    in_sparse_indices,
    in_constant,
    in_tensors,
    in_branch,
    in_nested_loop,
    in_graphs,
    in_function,
    in_function_default,
    in_training,
]
"""Where a tensor may be in a model."""


@pytest.mark.parametrize("place", PLACES)
def test_tensors_lie_in_weights_only(place: Callable[[TensorProto], ModelProto]) -> None:
    check_graph(place(tensor()).SerializeToString(), "g.onnx", weights=True)
    with pytest.raises(BundleError, match=r"^g\.onnx: a tensor lies in weights\.bin, and the bundle has none"):
        check_graph(place(tensor()).SerializeToString(), "g.onnx", weights=False)
    with pytest.raises(BundleError, match=r"^g\.onnx: a tensor lies in 'etc/passwd'; external data lie in weights"):
        check_graph(place(tensor("etc/passwd")).SerializeToString(), "g.onnx", weights=True)


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "./weights.bin", "weights.bin/", "WEIGHTS.bin", "weights.bin\0", b"\xff", "", "*/_ORT_MEM_ADDR_/*"],
)
def test_no_other_name_is_that_of_weights(location: str | bytes) -> None:
    with pytest.raises(BundleError, match="external data lie in weights"):
        check_graph(in_branch(tensor(location)).SerializeToString(), "g.onnx", weights=True)


def test_the_last_of_two_locations_counts() -> None:
    def message(field: int, content: bytes) -> bytes:
        return bytes([field << 3 | 2, len(content)]) + content

    entry = message(1, b"location") + message(2, b"weights.bin") + message(2, b"/ab")
    data = message(7, message(5, message(13, entry)))
    assert onnx.load_model_from_string(data).graph.initializer[0].external_data[0].value == "/ab"
    with pytest.raises(BundleError, match="a tensor lies in '/ab'"):
        check_graph(data, "g.onnx", weights=True)


@pytest.mark.parametrize("domain", ["com.microsoft", "com.microsoft.nchwc", "ai.onnx.training", "mine", "ai.onnx\0"])
def test_operators_are_of_the_standard(domain: str) -> None:
    output = helper.make_tensor_value_info("out", FLOAT, [2])
    node = helper.make_node("EPContext", ["x"], ["out"], domain=domain)
    for model in (
        model_of(helper.make_node("EPContext", ["x"], ["y"], domain=domain)),
        model_of(helper.make_node("If", ["x"], ["y"], then_branch=helper.make_graph([node], "b", [], [output]))),
    ):
        with pytest.raises(
            BundleError, match=r"operator 'EPContext' of the domain .*; bundles have operators of the ONNX"
        ):
            check_graph(model.SerializeToString(), "g.onnx", weights=True)


@pytest.mark.parametrize(
    "operator",
    ["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Dropout"],
)
def test_no_operator_draws_at_random(operator: str) -> None:
    """Or a row's answer would depend on the requests before it."""
    inputs = ["x", "share", "in_training"] if operator == "Dropout" else ["x"]
    output = helper.make_tensor_value_info("out", FLOAT, [2])
    hidden = helper.make_graph([helper.make_node(operator, inputs, ["out"])], "b", [], [output])
    for model in (
        model_of(helper.make_node(operator, inputs, ["y"])),
        model_of(helper.make_node("If", ["x"], ["y"], then_branch=hidden)),
    ):
        with pytest.raises(BundleError, match=f"operator {operator} .*draws at random"):
            check_graph(model.SerializeToString(), "g.onnx", weights=True)
    check_graph(model_of(helper.make_node("Dropout", ["x"], ["y"])).SerializeToString(), "g.onnx", weights=True)


def test_functions_take_no_name_of_the_runtime() -> None:
    model = in_function(tensor())
    check_graph(model.SerializeToString(), "g.onnx", weights=True)
    for domain in ("", "ai.onnx", "com.microsoft", "com.ms.internal.nhwc"):
        model.functions[0].domain = domain
        with pytest.raises(BundleError, match="function 'f' is defined in the reserved domain"):
            check_graph(model.SerializeToString(), "g.onnx", weights=True)


def test_the_file_does_not_configure_the_runtime() -> None:
    model = model_of(identity())
    model.metadata_props.add(key="ort_config", value="{}")
    with pytest.raises(BundleError, match="configures ONNX Runtime"):
        check_graph(model.SerializeToString(), "g.onnx", weights=True)


def test_another_format_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime's own format, which it takes by its looks, says nothing of this kind."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "g.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(onnx.parser.parse_model(TABLE_GRAPHS["encoder"]).SerializeToString(), options)
    with pytest.raises(BundleError, match=r"g\.onnx: "):
        check_graph((tmp_path / "g.ort").read_bytes(), "g.onnx", weights=True)


@pytest.mark.parametrize(
    "data", [b"\x0b", b"\x3a\x05abc", b"\x80" * 20, b"\x08", b"\xfa\x07\x00", b"\x3a\xff\xff\xff\xff\x0f"]
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"g\.onnx: (not an ONNX file|field 127 of a model)"):
        check_graph(data, "g.onnx", weights=True)


def test_what_onnx_reads_in_damaged_files_is_found(digits_bundle: Bundle) -> None:
    """Whichever bytes change: a file that the package `onnx` reads another location or domain from is refused."""
    whole = digits_bundle.files["encoder.onnx"]
    rng = random.Random(0)
    read = refused = 0
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            check_graph(bytes(data), "g.onnx", weights=True)
        except BundleError:
            refused += 1
            continue
        try:
            model = onnx.load_model_from_string(bytes(data))
        except Exception:  # Protobuf's own kinds.
            continue
        read += 1
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx", "ai.onnx.ml"}
        for initializer in model.graph.initializer:
            locations = {entry.value for entry in initializer.external_data if entry.key == "location"}
            assert locations <= {WEIGHTS}
    assert read > 500
    assert refused > 500


def test_graphs_of_the_default_bundle_pass(digits_bundle: Bundle) -> None:
    for name in digits_bundle.manifest.graphs:
        check_graph(digits_bundle.files[f"{name}.onnx"], name, weights=True)
