"""Graphs whose answer to a row is the same bits wherever in a batch the row stands, on ONNX Runtime's CPU provider."""

import math

import onnx
from onnx import TensorProto, helper, numpy_helper

_VECTOR = 16
"""Elements of the longest vector that the kernels compute at once."""

_BY_VECTOR = {
    TensorProto.FLOAT: {"Acos", "Asin", "Atan", "Celu", "Cos", "Elu", "Mish", "Selu", "Sin"},
    TensorProto.DOUBLE: {"Cos", "Sigmoid", "Sin", "Tanh"},
}
"""By type, the functions of single elements that are computed by vectors and have no other spelling."""


def make_position_invariant(model: onnx.ModelProto) -> None:
    """Replace, in place, the operators whose answer to an element depends on where in the tensor it stands.

    ONNX Runtime computes Log, Softplus, the Exp of float64 and all of `_BY_VECTOR` on the CPU in vectors of several
    elements and the rest one by one, and the two ways differ in the last bit; a square has its own way for a tensor of
    one element. Sums of exponentials over an axis of length one, powers of a scalar, and products take the same way for
    every element, and so does every element of whole vectors:

        Log(x)      = ReduceLogSum(x[..., None], axis=-1)
        Softplus(x) = max(x, 0) + Log(1 + exp(-|x|))
        Exp(x)      = e ** x
        x ** 2      = x * x
        Elu(x)      = the first of the answers to sixteen copies of x, unless rows fill whole vectors; likewise others

    Sums add up in an order that depends on the first element's address modulo 16 bytes; with as many zeros appended as
    there are elements (float64), or three times as many (float32), all addresses are alike. Sums over an axis that is
    not the last have one order for a single row and another for several; the axis is moved to the end, with zeros.
    """
    nodes: list[onnx.NodeProto] = []
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    values = {value.name: value.type.tensor_type for value in (*model.graph.value_info, *model.graph.output)}
    for node in model.graph.node:
        source, target = (node.input[0] if node.input else ""), node.output[0]
        operand = constants.get(node.input[1]) if len(node.input) > 1 else None
        match node.op_type:
            case "Log":
                nodes += _log(source, target)
            case "Softplus":
                nodes += _softplus(source, target)
            case kind if target in values and kind in _BY_VECTOR.get(values[target].elem_type, ()):
                nodes += [node] if _fills_vectors(values[target]) else _in_company(node)
            case "Exp" if target in values and values[target].elem_type == TensorProto.DOUBLE:
                nodes.append(helper.make_node("Pow", ["invariant_e", source], [target]))
            case "Pow" if operand is not None and operand.tolist() == 2:
                nodes.append(helper.make_node("Mul", [source, source], [target]))
            case "ReduceSum" | "ReduceMean" if operand is not None and source in values:
                nodes += _reduction(node, values[source], operand.tolist())
            case _:
                nodes.append(node)
    added = [
        helper.make_tensor("invariant_axis", TensorProto.INT64, [1], [-1]),
        helper.make_tensor("invariant_first", TensorProto.INT64, [], [0]),
        helper.make_tensor("invariant_one", TensorProto.FLOAT, [], [1.0]),
        helper.make_tensor("invariant_e", TensorProto.DOUBLE, [], [math.e]),
        helper.make_tensor("invariant_two", TensorProto.DOUBLE, [], [2.0]),
        helper.make_tensor("invariant_four", TensorProto.FLOAT, [], [4.0]),
    ]
    used = {name for node in nodes for name in node.input}
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constant for constant in added if constant.name in used)


def _log(source: str, target: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Unsqueeze", [source, "invariant_axis"], [f"{target}_column"]),
        helper.make_node("ReduceLogSum", [f"{target}_column", "invariant_axis"], [target], keepdims=0),
    ]


def _fills_vectors(tensor: onnx.TypeProto.Tensor) -> bool:
    """Whether every row begins a new vector."""
    size = math.prod(dim.dim_value for dim in tensor.shape.dim[1:])  # 0 where it is chosen at run time.
    return size > 0 and size % _VECTOR == 0


def _in_company(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    source, target = node.input[0], node.output[0]
    column, copies, answers = (f"{target}_{part}" for part in ("column", "copies", "answers"))
    repeated = helper.make_node(node.op_type, [copies], [answers])
    repeated.attribute.extend(node.attribute)
    return [
        helper.make_node("Unsqueeze", [source, "invariant_axis"], [column]),
        helper.make_node("Concat", [column] * _VECTOR, [copies], axis=-1),
        repeated,
        helper.make_node("Gather", [answers, "invariant_first"], [target], axis=-1),
    ]


def _softplus(source: str, target: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Relu", [source], [f"{target}_positive"]),
        helper.make_node("Abs", [source], [f"{target}_size"]),
        helper.make_node("Neg", [f"{target}_size"], [f"{target}_negative"]),
        helper.make_node("Exp", [f"{target}_negative"], [f"{target}_exp"]),
        helper.make_node("Add", [f"{target}_exp", "invariant_one"], [f"{target}_sum"]),
        *_log(f"{target}_sum", f"{target}_log"),
        helper.make_node("Add", [f"{target}_positive", f"{target}_log"], [target]),
    ]


def _reduction(node: onnx.NodeProto, tensor: onnx.TypeProto.Tensor, axes: list[int]) -> list[onnx.NodeProto]:
    """A ReduceSum or ReduceMean over the last axes, of zeros too where they do not fill multiples of 16 bytes."""
    before, after = _move_to_end(node, axes[0], len(tensor.shape.dim)) if len(axes) == 1 else ([], [])
    size = math.prod(tensor.shape.dim[axis].dim_value for axis in axes)  # 0 where it is chosen at run time.
    double = tensor.elem_type == TensorProto.DOUBLE
    if size and size % (2 if double else 4) == 0 and not before:  # ONNX Runtime would undo the move alone.
        return [node]
    (source, *operands), target = node.input, node.output[0]
    shape, zeros, padded, share = (f"{target}_{part}" for part in ("shape", "zeros", "padded", "share"))
    zero = helper.make_tensor("zero", tensor.elem_type, [1], [0.0])
    mean = node.op_type == "ReduceMean"
    node.input[:] = [padded, *operands]
    node.output[:] = [share if mean else target]
    return [
        *before,
        helper.make_node("Shape", [source], [shape]),
        helper.make_node("ConstantOfShape", [shape], [zeros], value=zero),
        helper.make_node("Concat", [source, *[zeros] * (1 if double else 3)], [padded], axis=-1 if before else axes[0]),
        node,
        *([helper.make_node("Mul", [share, f"invariant_{'two' if double else 'four'}"], [target])] if mean else []),
        *after,
    ]


def _move_to_end(node: onnx.NodeProto, axis: int, rank: int) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Let a reduction over an inner axis be one over the last: what comes before it, and what comes after."""
    if axis % rank == rank - 1:
        return [], []
    source, target = node.input[0], node.output[0]
    order = [*(other for other in range(rank) if other != axis % rank), axis % rank]
    moved, reduced = f"{target}_moved", f"{target}_reduced"
    node.input[:] = [moved, "invariant_axis"]
    before = [helper.make_node("Transpose", [source], [moved], perm=order)]
    if not any(attribute.name == "keepdims" and attribute.i for attribute in node.attribute):
        return before, []
    node.output[:] = [reduced]
    back = [order.index(place) for place in range(rank)]
    return before, [helper.make_node("Transpose", [reduced], [target], perm=back)]
