"""Exported graphs compute what PyTorch computes, hold nothing random or local, and share one file of weights."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from logging.handlers import BufferingHandler
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from service.bundle import WEIGHTS, Array, CategoricalColumn, Graph, ImageInput, NumericColumn, TabularInput
from service.engine import OnnxEngine
from service.scoring import noise
from tests.training.kinds import KINDS, Kind, accepted
from training.evaluation.bounds import compute
from training.export.graphs import graph_modules
from training.export.onnx import SHARED_FROM, TOLERANCE, ExportError, export_graphs, graph_inputs, verify
from training.model import LIKELIHOODS, ModelRecipe
from training.model.build import build
from training.model.priors import Mixture

L = 3
BASE_SAMPLES = noise.base_samples(0, 16, L)
FIRST = {
    "discretized_logistic": "colour levels",
    "gaussian_shared": "continuous image",
    "continuous_bernoulli": "continuous image",
    "categorical": "grey levels",
    "mixed_heteroscedastic": "mixed table",
    "mixed_asinh": "mixed table",
}
"""Kinds of data to prefer to numbers, or else to the first that a likelihood takes."""
ARCHITECTURE = {
    "discretized_logistic": "convolutional",
    "bernoulli": "convolutional",
    "mixed_asinh": "skip_mlp",
}
PRIOR = {"mixed_asinh": "mixture", "bernoulli": "mixture"}
QUICK = {"mixed_asinh"}
"""What is exported in every run of the tests; each likelihood takes half a minute."""


@dataclass(frozen=True)
class Exported:
    """A VAE with random weights, its graphs, and what was logged when they were made."""

    modules: dict[str, nn.Module]
    kind: Kind
    graphs: dict[str, Graph]
    files: dict[str, bytes]
    logged: list[str]

    @property
    def models(self) -> dict[str, onnx.ModelProto]:
        return {name: onnx.load_from_string(self.files[f"{name}.onnx"]) for name in self.graphs}

    def engine(self, files: Mapping[str, bytes] | None = None) -> OnnxEngine:
        return OnnxEngine(self.graphs, self.files if files is None else files, "cpu")

    def verify(self, engine: OnnxEngine) -> dict[str, float]:
        return verify(self.modules, self.kind.data, engine, self.kind.rows[:40], BASE_SAMPLES)


EVERY = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in LIKELIHOODS]


@pytest.fixture(scope="module", params=EVERY)
def exported(request: pytest.FixtureRequest) -> Exported:
    name = request.param
    kinds = [kind for likelihood, kind in accepted() if likelihood == name]
    first = "numbers" if "numbers" in kinds else kinds[0]  # Few to a row show operators that answer by position.
    kind = KINDS[FIRST.get(name, first)]
    recipe = ModelRecipe(
        architecture=ARCHITECTURE.get(name, "gated_mlp"),
        widths=(16, 16),
        latent_size=L,
        likelihood=name,
        prior=PRIOR.get(name, "standard_normal"),
        components=5,
    )
    vae = build(recipe, kind.data, kind.rows, seed=0).eval()
    with torch.no_grad():  # Training moves what starts at zero.
        for parameter in vae.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    modules = graph_modules(vae, kind.data, kind.rows)
    log = BufferingHandler(1000)
    logging.getLogger().addHandler(log)
    graphs, files = export_graphs(modules, kind.data, L)
    logging.getLogger().removeHandler(log)
    return Exported(modules, kind, graphs, files, [record.getMessage() for record in log.buffer])


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes(inner)


def test_graphs_are_torch_and_rows_are_themselves_in_every_batch(exported: Exported) -> None:
    errors = exported.verify(exported.engine())
    assert errors.keys() == exported.graphs.keys()
    assert max(errors.values()) < TOLERANCE


def test_an_export_says_nothing_of_the_exporter(exported: Exported) -> None:
    assert exported.logged == []


class _SmallNumbers(nn.Module):
    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = z.double()
        return (torch.log(x * x + 1e-12) * 1.000001 - 1e-9,)


def test_small_numbers_count() -> None:
    data = TabularInput(columns=(NumericColumn(name="a"), NumericColumn(name="b")))
    graphs, files = export_graphs({"decoder": _SmallNumbers()}, data, 2, own=False)
    z = torch.tensor([[0.0, 1e-3]])
    answer = OnnxEngine(graphs, files, "cpu").run("decoder", {"z": z.numpy()})["x_mean"]
    np.testing.assert_allclose(answer, _SmallNumbers()(z)[0], rtol=1e-7)


BY_ELEMENT: list[Callable[[torch.Tensor], torch.Tensor]] = [
    *(lambda x: torch.acos(x / 50), lambda x: torch.asin(x / 50), torch.atan, torch.cos, torch.sin),
    *(nn.CELU(0.7), nn.ELU(0.7), nn.LogSigmoid(), nn.Mish(), nn.SELU(), nn.Sigmoid(), nn.Softplus(), nn.Tanh()),
    *(lambda x: torch.cos(x.double()), lambda x: torch.sin(x.double())),
    *(lambda x: torch.sigmoid(x.double()), lambda x: torch.tanh(x.double())),
]


class _ByElement(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = torch.arange(1, self._width + 1)[:, None] * z[:, None]
        return (torch.stack([function(x).sum(1).sum(1).double() for function in BY_ELEMENT], 1),)


@pytest.mark.parametrize("width", [1, 5, 8])
def test_functions_of_elements_and_their_sums_do_not_depend_on_the_row(width: int) -> None:
    """Other people's networks have all kinds, layers of any width, and sums over any axis."""
    data = TabularInput(columns=[NumericColumn(name=f"{i}") for i in range(len(BY_ELEMENT))])
    z = np.random.default_rng(0).standard_normal((37, 2)).astype(np.float32)
    module = _ByElement(width)
    graphs, files = export_graphs({"decoder": module}, data, 2, own=False)
    engine = OnnxEngine(graphs, files, "cpu")
    answer = engine.run("decoder", {"z": z})["x_mean"]
    np.testing.assert_allclose(answer, module(torch.from_numpy(z))[0], rtol=1e-5, atol=1e-5)
    alone = np.concatenate([engine.run("decoder", {"z": z[i : i + 1]})["x_mean"] for i in range(len(z))])
    assert np.flatnonzero((answer != alone).any(0)).tolist() == []


class _ManyComponents(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.prior = Mixture(2, 899)

    def forward(self, normal: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.prior.sample(normal, uniform),)


def test_pictures_export() -> None:
    data = ImageInput(shape=(24, 24, 3), dtype="uint8", low=0, high=255)
    rows = np.random.default_rng(0).integers(0, 256, (8, 24, 24, 3), np.uint8)
    recipe = ModelRecipe(architecture="convolutional", widths=(4, 4), latent_size=L, likelihood="gaussian_shared")
    vae = build(recipe, data, rows, seed=0).eval()
    every = graph_modules(vae, data, rows)
    modules = {name: every[name] for name in ("encoder", "elbo")}
    graphs, files = export_graphs(modules, data, L, own=False)  # Not from the cache.
    assert verify(modules, data, OnnxEngine(graphs, files, "cpu"), rows, BASE_SAMPLES).keys() == modules.keys()


def test_every_draw_is_of_the_component_that_torch_takes() -> None:
    data = TabularInput(columns=(NumericColumn(name="a"), NumericColumn(name="b")))
    module = _ManyComponents()
    graphs, files = export_graphs({"prior": module}, data, 2, own=False)
    normal, uniform = noise.standard_normal(0, (5000, 2)), noise.uniform(0, (5000, 1))
    answer = OnnxEngine(graphs, files, "cpu").run("prior", {"normal": normal, "uniform": uniform})["z"]
    with torch.no_grad():
        expected = module(torch.from_numpy(normal), torch.from_numpy(uniform))[0].numpy()
    np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("rows", "draws"), [(1, 1), (1, 16), (7, 1), (13, 5)])
def test_graphs_at_several_sizes(exported: Exported, rows: int, draws: int) -> None:
    engine = exported.engine()
    x = exported.kind.rows[:rows]
    z = np.random.default_rng(2).standard_normal((rows, L)).astype(np.float32)
    for name, module in exported.modules.items():
        by_row, shared = graph_inputs(name, x, BASE_SAMPLES[:draws], z)
        inputs = by_row | shared
        answer = engine.run(name, inputs)
        expected = module(*(torch.from_numpy(inputs[tensor.name]) for tensor in exported.graphs[name].inputs))
        for tensor, values in zip(exported.graphs[name].outputs, expected, strict=True):
            assert answer[tensor.name].dtype == tensor.dtype
            np.testing.assert_allclose(
                answer[tensor.name], values, rtol=1e-4, atol=1e-4, err_msg=f"{name} {tensor.name}"
            )


@pytest.mark.parametrize("draws", [16, 15, 3])
def test_batches_do_not_change_a_bit(exported: Exported, draws: int) -> None:
    engine, x, base_samples = exported.engine(), exported.kind.rows, BASE_SAMPLES[:draws]
    whole = engine.run("elbo", {"x": x, "noise": base_samples})
    in_pieces = compute(engine, "elbo", {"x": x}, base_samples)
    backwards = engine.run("elbo", {"x": x[::-1].copy(), "noise": base_samples})
    for name, values in whole.items():
        assert values.tobytes() == in_pieces[name].tobytes() == backwards[name][::-1].tobytes(), name
    for i in range(9):
        alone = engine.run("elbo", {"x": x[i : i + 1], "noise": base_samples})
        assert {name: values[i] for name, values in whole.items()} == {
            name: values[0] for name, values in alone.items()
        }


def test_files_are_valid_and_deterministic_graphs(exported: Exported, tmp_path: Path) -> None:
    for name, content in exported.files.items():
        (tmp_path / name).write_bytes(content)
    for name, model in exported.models.items():
        onnx.checker.check_model(tmp_path / f"{name}.onnx", full_check=True)
        assert not model.functions
        kinds = {node.op_type for node in nodes(model.graph)}
        assert not {kind for kind in kinds if kind.startswith(("Random", "Multinomial", "Dropout", "Bernoulli"))}
        # ONNX Runtime's Log, Softplus and Exp of float64 answer by position; the exporter spells them otherwise.
        assert not kinds & {"Log", "Softplus", "BatchNormalization"}
        doubles = {v.name for v in model.graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE}
        assert doubles or name in {"encoder", "decoder", "draw", "prior"}
        assert not {n.op_type for n in nodes(model.graph) if n.output[0] in doubles} & {"Exp", "Sigmoid", "Tanh"}
        assert {node.domain for node in nodes(model.graph)} <= {"", "ai.onnx"}
        assert [tensor.name for tensor in model.graph.input] == [t.name for t in exported.graphs[name].inputs]
        assert [tensor.name for tensor in model.graph.output] == [t.name for t in exported.graphs[name].outputs]


def test_weights_are_stored_once(exported: Exported) -> None:
    offsets: dict[bytes, int] = {}
    weights, stored, uses = exported.files[WEIGHTS], 0, 0
    for model in exported.models.values():
        for tensor in model.graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                assert onnx.numpy_helper.to_array(tensor).nbytes < SHARED_FROM
                continue
            place = {entry.key: entry.value for entry in tensor.external_data}
            assert place["location"] == WEIGHTS
            start = int(place["offset"])
            raw = weights[start : start + int(place["length"])]
            assert len(raw) == int(place["length"]) >= SHARED_FROM
            assert offsets.setdefault(raw, start) == start
            uses += 1
    spans = sorted((start, start + len(raw)) for raw, start in offsets.items())
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    stored = sum(end - start for start, end in spans)
    assert len(weights) - stored < 64 * len(spans)
    # The decoder's weights are in four graphs, the encoder's in three.
    assert uses > 2 * len(spans)
    large = [p.detach().numpy() for p in exported.modules["elbo"].parameters() if p.nbytes >= SHARED_FROM]
    # Products take a weight as it is, or transposed.
    assert all({weight.tobytes(), weight.T.tobytes()} & offsets.keys() for weight in large)


def test_nothing_of_this_machine_is_in_the_files(exported: Exported) -> None:
    here = [str(Path(__file__).parents[3]), str(Path(torch.__file__).parents[1]), "site-packages", ".py", "Traceback"]
    for name, content in exported.files.items():
        if name.endswith(".onnx"):
            assert not [text for text in here if text.encode() in content], name


@pytest.mark.slow
@pytest.mark.parametrize("exported", ["mixed_asinh"], indirect=True)
def test_a_graph_traced_now_is_the_one_from_the_cache(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    some = {name: exported.modules[name] for name in ("encoder", "decoder")}
    traced = export_graphs(some, exported.kind.data, L)
    assert len(list(tmp_path.rglob("*.onnx"))) == 2
    assert export_graphs(some, exported.kind.data, L) == traced


@pytest.mark.parametrize("exported", ["mixed_asinh"], indirect=True)
@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_verify_notices_a_changed_weight(exported: Exported, graph: str) -> None:
    tensor = next(
        tensor
        for tensor in exported.models[graph].graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL and tensor.data_type == onnx.TensorProto.FLOAT
    )
    place = {entry.key: int(entry.value) for entry in tensor.external_data if entry.key != "location"}
    weights = np.frombuffer(bytearray(exported.files[WEIGHTS]), np.uint8).copy()
    span = weights[place["offset"] : place["offset"] + place["length"]].view(np.float32)
    span += 0.05
    engine = exported.engine(exported.files | {WEIGHTS: weights.tobytes()})
    with pytest.raises(ExportError, match=r"\.onnx, .* differs from torch by up to"):
        exported.verify(engine)


class Drifting(OnnxEngine):
    """An engine whose answers to the elbo graph depend, in the last bit, on a row's place in the batch."""

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        answer = super().run(graph, inputs)
        if graph == "elbo":
            answer["kl"][1::2] = np.nextafter(answer["kl"][1::2], np.inf)
        return answer


@pytest.mark.parametrize("exported", ["mixed_asinh"], indirect=True)
def test_verify_notices_answers_that_depend_on_the_place(exported: Exported) -> None:
    engine = Drifting(exported.graphs, exported.files, "cpu")
    with pytest.raises(ExportError, match=r"elbo\.onnx: kl of a row alone is not its kl among others"):
        exported.verify(engine)


class Truncating(OnnxEngine):
    """An engine that loses the last draw from p(x|z)."""

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        answer = super().run(graph, inputs)
        return {name: values[:-1] for name, values in answer.items()} if graph == "draw" else answer


@pytest.mark.parametrize("exported", ["mixed_asinh"], indirect=True)
def test_verify_notices_other_shapes(exported: Exported) -> None:
    with pytest.raises(ExportError, match=r"draw\.onnx, x, 1 rows, 1 draws: shape \(0, \d\) where torch has \(1, \d\)"):
        exported.verify(Truncating(exported.graphs, exported.files, "cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("exported", ["mixed_asinh"], indirect=True)
def test_a_cache_that_cannot_be_read_or_written_costs_time_only(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder")
    only = {"prior": exported.modules["prior"]}
    graphs, files = export_graphs(only, exported.kind.data, L)
    assert files["prior.onnx"]
    assert graphs["prior"] == exported.graphs["prior"]


@pytest.mark.slow
def test_large_and_constant_columns_export() -> None:
    """Money of sd 1e6 around zero: float32 cannot hold a draw to a thousandth of a unit, and need not."""
    rng = np.random.default_rng(3)
    constant = CategoricalColumn(name="currency", categories=("EUR",))
    numbers = (NumericColumn(name="flow"), NumericColumn(name="version"), NumericColumn(name="turnover"))
    cells = [np.zeros(200), rng.normal(0, 1e6, 200), np.full(200, 7.0), np.exp(rng.normal(21, 1.2, 200))]
    rows = np.column_stack(cells)
    data = TabularInput(columns=(constant, *numbers))
    recipe = ModelRecipe(widths=(8,), latent_size=2, likelihood="mixed_asinh")
    modules = graph_modules(build(recipe, data, rows, seed=0), data, rows)
    graphs, files = export_graphs(modules, data, 2)
    errors = verify(modules, data, OnnxEngine(graphs, files, "cpu"), rows[:64], noise.base_samples(0, 16, 2))
    assert max(errors.values()) < TOLERANCE


@pytest.mark.slow
def test_columns_whose_tails_are_far_beyond_their_widths_export() -> None:
    """A column that is nearly constant in most rows has a short unit; where it is not, float32 keeps digits of û."""
    rng = np.random.default_rng(1)
    calm, wild = rng.normal(0, 1e-3, (600, 2)), rng.normal(0, 1e4, (600, 2))
    rows = np.where(rng.random((600, 2)) < 0.26, wild, calm)
    data = TabularInput(columns=(NumericColumn(name="a"), NumericColumn(name="b")))
    recipe = ModelRecipe(widths=(64,), latent_size=2, likelihood="mixed_asinh")
    modules = graph_modules(build(recipe, data, rows, seed=0), data, rows)
    graphs, files = export_graphs(modules, data, 2)
    errors = verify(modules, data, OnnxEngine(graphs, files, "cpu"), rows[:64], noise.base_samples(0, 16, 2))
    assert max(errors.values()) < TOLERANCE
