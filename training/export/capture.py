"""A module as operations that the ONNX exporter translates, captured in one pass.

`torch.onnx.export` would capture a module three times: once as it is, and twice to break its operations into simpler
ones. A gradient has to be written out before that. Here one pass does all of it, with the exporter's own table.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from service.bundle import Graph

_SIZES = {"batch": 10_007, "draws": 10_009}
"""Sizes of the examples, which are not computed; sizes that are equal here are taken to be equal always."""


class Capture(ExportedProgram):
    """A module that is captured as soon as the exporter says which operations it translates.

    Its weights keep their names; sizes of the graph's inputs that are given by name may vary at run time.
    """

    def __init__(self, module: nn.Module, graph: Graph) -> None:
        self._module, self._graph = module, graph

    def run_decompositions(
        self, decomp_table: Mapping[Any, Callable[..., Any]] | None = None, decompose_custom_triton_ops: bool = False
    ) -> ExportedProgram:
        """Capture the module; an operation that the table has becomes simpler ones."""
        return _capture(self._module, self._graph, decomp_table or {})


def _capture(module: nn.Module, graph: Graph, table: Mapping[Any, Callable[..., Any]]) -> ExportedProgram:
    state = {name: tensor.detach() for name, tensor in module.state_dict(keep_vars=True).items()}
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    examples = [mode.from_tensor(tensor, static_shapes=True) for tensor in state.values()]
    for tensor in graph.inputs:
        sizes = [_SIZES[size] if isinstance(size, str) else size for size in tensor.shape]
        example = torch.zeros(1, dtype=getattr(torch, tensor.dtype)).expand(sizes)
        kinds = [DimDynamic.DUCK if isinstance(size, str) else DimDynamic.STATIC for size in tensor.shape]
        examples.append(mode.from_tensor(example, symbolic_context=StatelessSymbolicContext(dynamic_sizes=kinds)))

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        own, given = tensors[: len(state)], tensors[len(state) :]
        return tuple(torch.func.functional_call(module, dict(zip(state, own, strict=True)), given))

    with mode:
        captured = make_fx(function, dict(table) | _DECOMPOSITIONS)(*examples)
    _replace_copies(captured.graph)
    constants = _constants_as_inputs(captured, mode)
    named = [
        *((InputKind.CONSTANT_TENSOR, name) for name in constants),
        *((InputKind.BUFFER, name) for name in state),
        *((InputKind.USER_INPUT, None) for _ in graph.inputs),
    ]
    inputs = [
        InputSpec(kind, TensorArgument(name=node.name), name, persistent=True if kind is InputKind.BUFFER else None)
        for (kind, name), node in zip(named, captured.graph.find_nodes(op="placeholder"), strict=True)
    ]
    (end,) = captured.graph.find_nodes(op="output")
    outputs = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(name=node.name), None) for node in end.args[0]]
    return ExportedProgram(
        root={**constants, **state},
        graph=captured.graph,
        graph_signature=ExportGraphSignature(inputs, outputs),
        state_dict=state,
        range_constraints={},
        module_call_graph=[],
        constants=dict(constants),
    )


def _replace_copies(graph: fx.Graph) -> None:
    """Take the source of a copy for its target from there on: gradients write into tensors of their own."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default):
        target, source = node.args
        target.replace_all_uses_with(source, delete_user_cb=node.__lt__)
        node.replace_all_uses_with(source)
        graph.erase_node(node)


def _constants_as_inputs(captured: fx.GraphModule, mode: FakeTensorMode) -> dict[str, Tensor]:
    """Make constants of the module the first inputs of its graph, and return them by the inputs' names."""
    constants: dict[str, Tensor] = {}
    first = next(iter(captured.graph.nodes))
    for node in captured.graph.find_nodes(op="get_attr"):
        constant = getattr(captured, node.target)
        with captured.graph.inserting_before(first):
            placeholder = captured.graph.placeholder(node.target)
        placeholder.meta["val"] = mode.from_tensor(constant, static_shapes=True)
        constants[placeholder.name] = constant
        node.replace_all_uses_with(placeholder)
        captured.graph.erase_node(node)
    return constants


def _convolution_backward(  # noqa: PLR0913, PLR0917 - the operator's own signature
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The gradient with respect to x, as a convolution: ONNX has no operator for it. Refinement needs no other."""
    if output_mask[1] or output_mask[2]:
        raise ValueError("only the gradient with respect to x is known")
    if transposed:
        left_over = [0] * len(stride)
    else:
        left_over = [
            size - ((after - 1) * step - 2 * pad + gap * (kernel - 1) + 1)
            for size, after, step, pad, gap, kernel in zip(
                x.shape[2:], gradient.shape[2:], stride, padding, dilation, weight.shape[2:], strict=True
            )
        ]
    arguments = (gradient, weight, None, stride, padding, dilation, not transposed, left_over, groups)
    return torch.ops.aten.convolution.default(*arguments), None, None


_DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {torch.ops.aten.convolution_backward.default: _convolution_backward}
"""Operations that the exporter neither translates nor breaks into simpler ones."""
