"""Gemm, MatMul and MatMul + Add: nn.Linear."""

from __future__ import annotations

import onnx_ir as ir
import torch

from ..moved import Moved
from . import layer
from .match import Call, Match


@layer("Gemm")
def gemm(m: Match) -> Call | None:
    """alpha * x @ W + beta * c, where W has been transposed or not."""
    weight = m.weight(1)
    scaled = m.attribute("alpha", 1.0) != 1.0 or (m.has(2) and m.attribute("beta", 1.0) != 1.0)
    if weight is None or m.attribute("transA", 0) or scaled or len(weight.shape) != 2:
        return None
    weight = weight if m.attribute("transB", 0) else weight.transpose(1, 0)
    bias = _bias(m.weight(2), weight.shape[0]) if m.has(2) else None
    if m.has(2) and bias is None:
        return None
    return _linear(m, 0, weight, bias, [m.node.outputs[0]], [m.node])


@layer("MatMul")
def matmul(m: Match) -> Call | None:
    """x @ W, and the bias added to it or to what it is reshaped to."""
    weight = m.weight(1)
    rank = m.shape(0)
    if weight is None or len(weight.shape) != 2 or rank is None or not rank:
        return None
    weight = weight.transpose(1, 0)
    result = m.node.outputs[0]
    found = m.added(result, weight.shape[0])
    if found is not None:
        return _linear(m, 0, weight, found[1], [found[0].outputs[0]], [m.node, found[0]])
    user = m.only_user(result)
    if user is not None and _keeps_last(user, weight.shape[0]):
        found = m.added(user.outputs[0], weight.shape[0])
        if found is not None:
            call = _linear(m, 0, weight, found[1], [result], [m.node, found[0]])
            call.replaced[found[0].outputs[0]] = user.outputs[0]
            return call
    return _linear(m, 0, weight, None, [result], [m.node])


def _linear(m: Match, x: int, weight: Moved, bias: Moved | None, outputs: list[ir.Value], nodes: list[ir.Node]) -> Call:
    wide, narrow = weight.shape
    options = {"in_features": narrow, "out_features": wide, "bias": bias is not None}
    weights = {"weight": weight} | ({} if bias is None else {"bias": bias})
    return Call("linear", torch.nn.Linear, options, weights, [m.node.inputs[x]], outputs, nodes)  # type: ignore[list-item]


def _bias(found: Moved | None, size: int) -> Moved | None:
    """As (size,): it may lie there with leading ones."""
    if found is None or not found.shape or found.shape[-1] != size or any(d != 1 for d in found.shape[:-1]):
        return None
    return found.reshape(size)


def _keeps_last(node: ir.Node, size: int) -> bool:
    """Whether a node rearranges the leading dims alone."""
    if node.op_type != "Reshape" or node.domain:
        return False
    shape = node.outputs[0].shape
    return shape is not None and len(shape) > 0 and shape[-1] == size
