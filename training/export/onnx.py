"""From a trained VAE to a bundle: ONNX graphs, shared weights, and the proof that they compute what torch computes."""

import copy
import logging
import multiprocessing
import warnings
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import cache
from typing import cast

import numpy as np
import onnx
import onnxscript.optimizer
import torch
from onnx import TensorProto, numpy_helper
from onnxscript import ir, rewriter
from onnxscript.rewriter._pattern_ir import Constant
from torch import nn
from torch.onnx._internal.exporter import _core
from torch.onnx._internal.exporter._registration import ONNXRegistry

from service.bundle import WEIGHTS, Array, Graph, ImageInput, TabularInput
from service.bundle.graphs import graph_contract
from service.engine import RELATIVE_TOLERANCE, Engine
from service.errors import LowerboundError
from service.scoring import first_state, noise
from training.export.batch_invariance import make_position_invariant
from training.export.capture import Capture
from training.export.single_pass_scores import SinglePassScores
from training.export.templates import read_template, structure_key, write_template
from training.model import VAE
from training.model.threads import enough_threads

OPSET = 23
TOLERANCE = 1e-3
"""By how much a graph may differ from torch, beside `RELATIVE_TOLERANCE` of the value.

In the output's own unit: nats, or latent standard deviations. Outputs in data units are compared in units of each
column's scale, so that a column of millions may differ by a thousandth of its standard deviation. Typicality may differ
by as much as rounding its statistics changes it, too: a statistic that hardly varies is divided by a small deviation.
"""

SHARED_FROM = 256
"""Bytes from which a tensor is kept in the shared weights file instead of in the graph."""

_LONGEST = ("refine", "explain", "scores", "elbo", "draw", "encoder", "decoder", "prior")
"""Graphs by the time that they take to trace, so that two processes end at about the same time."""

_ALIGNMENT = 64

_SEED = 0
"""Of the noise in the inputs of graphs that draw."""


class ExportError(LowerboundError):
    """A graph that cannot be translated, or does not compute what torch computes. The message names it and says why."""


def trace(module: nn.Module, graph: Graph) -> onnx.ModelProto:
    """Translate a module with these inputs and outputs; sizes given by name may vary at run time.

    The result has the module's structure without its weights. `to_onnx` puts them in, any number of times.
    """
    # The exporter logs which optional packages it does without.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # The exporter warns of its own use of PyTorch.
        warnings.simplefilter("ignore")
        program = _core.export(
            Capture(module, graph), registry=_translations(), opset_version=OPSET, verbose=False, optimize=False
        )
    return _simplified(program.model_proto, module.state_dict().keys())


@cache
def _translations() -> ONNXRegistry:
    """The exporter's translations of operations; `torch.onnx.export` would read them anew for each graph, in 0.7 s."""
    return ONNXRegistry.from_torchlib(OPSET)


@cache
def _make_rules_exact() -> None:
    """Let the optimizer leave out x + 0 and x · 1 alone.

    By its own tolerance x + 1e-12 would be left out, too, and log(x + 1e-12) be −∞ where x is 0.
    """
    for rule in rewriter._DEFAULT_REWRITE_RULES:  # noqa: SLF001 - the rules that it has no parameter for
        for node in rule._target_pattern:  # noqa: SLF001
            for value in node.inputs:
                if isinstance(value, Constant):
                    value._rel_tol = value._abs_tol = 0.0  # noqa: SLF001


def _simplified(model: onnx.ModelProto, weights: Collection[str]) -> onnx.ModelProto:
    """Simplify a graph as far as its weights' values do not matter, and take these out.

    That takes most of the time of an export, and so is done once for all models of this structure.
    """
    absent = [tensor for tensor in model.graph.initializer if tensor.name in weights]
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in weights]
    for tensor in absent:
        tensor.ClearField("raw_data")
    # The optimizer computes nothing from inputs.
    unknown = [onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in absent]
    inputs = len(model.graph.input)
    model.graph.input.extend(unknown)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    _make_rules_exact()
    model = onnxscript.optimizer.optimize(model)
    del model.graph.input[inputs:]
    model.graph.initializer.extend(absent)
    return model


def to_onnx(template: onnx.ModelProto, module: nn.Module, graph: Graph) -> onnx.ModelProto:
    """The graph of a traced module with the module's present weights, simplified and named by the contract."""
    model = onnx.ModelProto()
    model.CopyFrom(template)
    weights = module.state_dict()
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name].cpu().numpy(), tensor.name))
    model = _folded(model)
    _name_values(model, graph)
    make_position_invariant(model)
    for node in model.graph.node:
        node.ClearField("metadata_props")  # Python tracebacks with the machine's paths.
    del model.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    return model


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Compute all that depends on weights alone; the whole optimizer would find nothing else, and take longer."""
    # The optimizer logs which constants it leaves where they are.
    logging.getLogger("onnxscript.optimizer").setLevel(logging.ERROR)
    folded = ir.from_proto(model)
    onnxscript.optimizer.fold_constants(folded)
    passes = ir.passes.common
    for tidy in (
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        tidy(folded)
    return ir.to_proto(folded)


def _name_values(model: onnx.ModelProto, graph: Graph) -> None:
    """Give inputs and outputs the contract's names, and all between them names that are none of the contract's."""
    ends = [(value.name, tensor.name) for value, tensor in zip(model.graph.input, graph.inputs, strict=True)]
    ends += [(value.name, tensor.name) for value, tensor in zip(model.graph.output, graph.outputs, strict=True)]
    names = dict(ends) | {"": ""}

    def renamed(name: str) -> str:
        return names.get(name, f"inner_{name}")

    for node in model.graph.node:
        node.input[:] = map(renamed, node.input)
        node.output[:] = map(renamed, node.output)
    for named in (*model.graph.input, *model.graph.output, *model.graph.initializer, *model.graph.value_info):
        named.name = renamed(named.name)


def share_weights(models: Mapping[str, onnx.ModelProto]) -> dict[str, bytes]:
    """The bundle's graph files and the one file of weights that they share; equal tensors are stored once."""
    weights = bytearray()
    offsets: dict[bytes, int] = {}
    for model in models.values():
        for tensor in model.graph.initializer:
            raw = tensor.raw_data
            if len(raw) < SHARED_FROM:
                continue
            if raw not in offsets:
                weights.extend(bytes(-len(weights) % _ALIGNMENT))
                offsets[raw] = len(weights)
                weights.extend(raw)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", WEIGHTS), ("offset", offsets[raw]), ("length", len(raw))):
                tensor.external_data.add(key=key, value=str(value))
    files = {f"{name}.onnx": model.SerializeToString(deterministic=True) for name, model in models.items()}
    return files | ({WEIGHTS: bytes(weights)} if weights else {})


def export_graphs(
    modules: Mapping[str, nn.Module], data: ImageInput | TabularInput, latent_size: int, *, own: bool = True
) -> tuple[dict[str, Graph], dict[str, bytes]]:
    """The contract of every module that `graph_modules` gave, and the files that compute it.

    The exporter takes seconds for each graph, whose structure does not depend on the weights. Graphs that were traced
    before are read from the cache of templates; the others are traced now, by two processes. Networks that are not this
    package's `own` are traced here and not cached: another process may not know their classes, and their source is not
    part of the cache's keys.
    """
    graphs = {name: graph_contract(name, data, latent_size) for name in modules}
    if not own:
        translated = {name: _translated(name, module, graphs[name]) for name, module in modules.items()}
        models = {name: to_onnx(translated[name], module, graphs[name]) for name, module in modules.items()}
        return graphs, share_weights(models)
    keys = {name: structure_key(module, graphs[name]) for name, module in modules.items()}
    templates = {name: template for name, key in keys.items() if (template := read_template(key)) is not None}
    absent = sorted(modules.keys() - templates.keys(), key=_LONGEST.index)
    for name, template in _traced({name: (modules[name], graphs[name]) for name in absent}):
        templates[name] = template
        write_template(keys[name], template)
    models = {name: to_onnx(templates[name], module, graphs[name]) for name, module in modules.items()}
    return graphs, share_weights(models)


def _translated(name: str, module: nn.Module, graph: Graph) -> onnx.ModelProto:
    """`trace` of a network that may be anything."""
    try:
        return trace(module, graph)
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ExportError(
            f"{name}.onnx: PyTorch cannot translate this network to ONNX, as recurrent layers and branches on values "
            f"often cannot be: {reason}"
        ) from error


def _traced(wanted: dict[str, tuple[nn.Module, Graph]]) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Trace graphs: a process of its own takes them from the first to the last, and this one from the last.

    Where PyTorch has one thread, there is no core for another process, which takes five seconds to import PyTorch.
    """
    pool = _process() if len(wanted) > 1 and torch.get_num_threads() > 1 else None
    if pool is None:
        yield from ((name, trace(*given)) for name, given in wanted.items())
        return
    # A thread pickles what the pool is given, later, when modules that are traced here hold symbols for their weights.
    copies = copy.deepcopy(wanted)
    with pool:
        running = {name: pool.submit(trace, *given) for name, given in copies.items()}
        for name in reversed(wanted):
            yield name, trace(*wanted[name]) if running[name].cancel() else running[name].result()


def _process() -> ProcessPoolExecutor | None:
    """Another process; None where its locks cannot be made, as with a read-only or full /dev/shm."""
    with suppress(OSError):
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    return None


def graph_inputs(
    graph: str, x: Array, base_samples: Array, latents: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The inputs of a graph of the contract: inputs with an entry per row, and inputs shared by all rows.

    Rows x are raw, (batch, *shape), and each has a z, (batch, L); the noise of the bounds is (K, L).
    """
    match graph:
        case "encoder" | "scores":
            return {"x": x}, {}
        case "decoder":
            return {"z": latents}, {}
        case "draw":
            shape = (len(x), x[0].size)
            return {
                "z": latents,
                "normal": noise.standard_normal(_SEED, shape),
                "uniform": noise.uniform(_SEED, shape),
            }, {}
        case "prior":
            return {
                "normal": noise.standard_normal(_SEED, latents.shape),
                "uniform": noise.uniform(_SEED, (len(x), 1)),
            }, {}
        case "refine":
            state = first_state({"mean": latents, "log_variance": np.zeros_like(latents)})
            return {"x": x, **state}, {"noise": base_samples}
        case _:
            return {"x": x}, {"noise": base_samples}


def verify(
    modules: Mapping[str, nn.Module], data: ImageInput | TabularInput, engine: Engine, x: Array, base_samples: Array
) -> dict[str, float]:
    """Hold every graph to torch, on 2 held-out rows or more, and every row's answer to itself in other batches.

    The noise of the bounds is (K, L).

    Returns:
        For each graph the largest difference from torch over its outputs: in nats, latent units or units of scale.

    Raises:
        ExportError: A difference exceeds `TOLERANCE` + `RELATIVE_TOLERANCE` of the value, or a row's answer depends on
            the rows beside it.
    """
    largest: dict[str, float] = {}
    vae = cast("VAE", modules["encoder"].vae)
    with torch.no_grad(), enough_threads(vae, torch.from_numpy(x[:1]), len(x) * len(base_samples)):
        latents = modules["encoder"](torch.from_numpy(x))[0].numpy()
        for name, module in modules.items():
            contract = graph_contract(name, data, latents.shape[1])
            order = [tensor.name for tensor in contract.inputs]
            for rows, draws in ((1, 1), (2, 3), (len(x), len(base_samples))):
                by_row, shared = graph_inputs(name, x[:rows], base_samples[:draws], latents[:rows])
                inputs = by_row | shared
                answer = engine.run(name, inputs)
                expected = module(*(torch.from_numpy(inputs[tensor]) for tensor in order))
                for tensor, original in zip(contract.outputs, expected, strict=True):
                    where = f"{name}.onnx, {tensor.name}, {rows} rows, {draws} draws"
                    unit: Array | float = 1.0
                    # An output in data units has the shape of instances, or is one number for the whole instance.
                    if tensor.unit == "data" and tensor.shape[1:] == data.shape:
                        unit = vae.units(original.flatten(1)).expand(len(original), -1).reshape(original.shape).numpy()
                    elif tensor.name == "typicality" and isinstance(module, SinglePassScores):
                        rounding = module.rounding(torch.from_numpy(inputs["x"]), RELATIVE_TOLERANCE)
                        unit = 1.0 + rounding.numpy() / TOLERANCE
                    error = _largest_error(answer[tensor.name], original.numpy(), unit, where)
                    largest[name] = max(largest.get(name, 0.0), error)
            for draws in (1, 3, len(base_samples)):
                _compare_with_itself(name, engine, *graph_inputs(name, x, base_samples[:draws], latents))
    return largest


def _compare_with_itself(graph: str, engine: Engine, by_row: dict[str, Array], shared: dict[str, Array]) -> None:
    together = engine.run(graph, by_row | shared)
    for i in range(len(next(iter(by_row.values())))):
        alone = engine.run(graph, {name: array[i : i + 1].copy() for name, array in by_row.items()} | shared)
        for output, values in alone.items():
            if values[0].tobytes() != together[output][i].tobytes():
                raise ExportError(f"{graph}.onnx: {output} of a row alone is not its {output} among others")


def _largest_error(values: Array, expected: Array, units: Array | float, where: str) -> float:
    """The largest difference, in units that broadcast to (batch, ...); raises where it exceeds the tolerance."""
    if values.shape != expected.shape:
        raise ExportError(f"{where}: shape {values.shape} where torch has {expected.shape}")
    # If torch has no number (the standard error of one draw), the graph must have none either.
    same = (np.isnan(values) & np.isnan(expected)) | (values == expected)
    error = np.where(same, 0.0, np.abs(values - expected) / units)
    allowed = TOLERANCE + RELATIVE_TOLERANCE * np.abs(np.nan_to_num(expected)) / units
    if not np.all(error <= allowed):
        unit = "" if isinstance(units, float) else " of its unit"
        raise ExportError(f"{where}: differs from torch by up to {np.max(error):.3g}{unit}")
    return float(error.max(initial=0.0))
