"""Gemm, MatMul and Einsum with a weight, and the Add behind them: nn.Linear."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch

from ..moved import Moved
from . import layer
from .match import Call, Match


@layer("Gemm")
def gemm(m: Match) -> Call | None:
    """alpha * x @ W + beta * c, where W has been transposed or not."""
    weight = m.weight(1)
    scaled = m.attribute("alpha", 1.0) != 1.0 or (m.adds(2) and m.attribute("beta", 1.0) != 1.0)
    if weight is None or m.attribute("transA", 0) or scaled or len(weight.shape) != 2:
        return None
    weight = weight if m.attribute("transB", 0) else weight.transpose(1, 0)
    bias = _bias(m.weight(2), weight.shape[0]) if m.adds(2) else None
    if m.adds(2) and bias is None:
        return None
    return _unfolded(m, _linear(m, 0, weight, bias, [m.node.outputs[0]], [m.node]))


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
        return _unfolded(m, _linear(m, 0, weight, found[1], [found[0].outputs[0]], [m.node, found[0]]))
    user = m.only_user(result)
    if user is not None and _keeps_last(user, weight.shape[0]):
        found = m.added(user.outputs[0], weight.shape[0])
        if found is not None:
            call = _linear(m, 0, weight, found[1], [result], [m.node, found[0]])
            call.replaced[found[0].outputs[0]] = user.outputs[0]
            return _unfolded(m, call)
    return _unfolded(m, _linear(m, 0, weight, None, [result], [m.node]))


def _unfolded(m: Match, call: Call) -> Call:
    """Without the reshapes around it that fold the leading dims into one and unfold them again."""
    before, after = call.inputs[0].producer(), m.only_user(call.outputs[0])
    skipped = next(iter(call.replaced), None)
    if before is None or after is None or any(n.op_type != "Reshape" or n.domain for n in (before, after)):
        return call
    source, folded, result = before.inputs[0], before.outputs[0], after.outputs[0]
    if source is None or after.inputs[0] is not call.outputs[0] or folded.shape is None or len(folded.shape) != 2:
        return call
    wide, narrow = call.options["out_features"], call.options["in_features"]
    if not _same_leading(source.shape, result.shape) or source.shape[-1] != narrow or result.shape[-1] != wide:
        return call
    call.inputs, call.nodes, call.replaced = [source], [*call.nodes, after], {}
    call.outputs = [result if skipped is None else skipped]
    return call


def _same_leading(a: ir.Shape | None, b: ir.Shape | None) -> bool:
    """Whether all dims but the last are the same; one that is not known is, where all others are."""
    if a is None or b is None or len(a) != len(b):
        return False
    pairs = list(zip(a[:-1], b[:-1], strict=True))
    known = [x == y for x, y in pairs if isinstance(x, int) and isinstance(y, int)]
    named = [
        x == y and x.value is not None
        for x, y in pairs
        if isinstance(x, ir.SymbolicDim) and isinstance(y, ir.SymbolicDim)
    ]
    return all(known) and len(known) + len(named) == len(pairs) and sum(not n for n in named) <= 1


def _linear(m: Match, x: int, weight: Moved, bias: Moved | None, outputs: list[ir.Value], nodes: list[ir.Node]) -> Call:
    wide, narrow = weight.shape
    options = {"in_features": narrow, "out_features": wide, "bias": bias is not None}
    weights = {"weight": weight} | ({} if bias is None else {"bias": bias})
    return Call("linear", torch.nn.Linear, options, weights, [m.node.inputs[x]], outputs, nodes)


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


@layer("Einsum")
def einsum(m: Match) -> Call | None:
    """A contraction of the last axes of x with the first ones of a weight: the layer, on flat axes."""
    weight, equation = m.weight(1), m.attribute("equation", "").replace(" ", "")
    terms = equation.replace("->", ",").split(",")
    if weight is None or len(m.node.inputs) != 2 or len(terms) != 3:
        return None
    x, w, y = (t.replace("...", ".") for t in terms)
    count = next((n for n in range(len(w), 0, -1) if x.endswith(w[:n])), 0)
    lead, over, made = x[: len(x) - count], w[:count], w[count:]
    letters = [*lead, *over, *made]
    if not count or not made or y != lead + made or len(set(letters)) != len(letters) or "." in over + made:
        return None
    narrow, wide = math.prod(weight.shape[:count]), math.prod(weight.shape[count:])
    flat = weight.reshape(narrow, wide).transpose(1, 0)
    shape = weight.shape[count:]
    result, nodes, bias = m.node.outputs[0], [m.node], None
    found = m.added_block(result, shape)
    if found is not None:
        nodes, bias, result = [m.node, found[0]], found[1].reshape(wide), found[0].outputs[0]
    call = _linear(m, 0, flat, bias, [result], nodes)
    if count > 1 or len(made) > 1:
        call.around = _Flat(count, shape)
    return call


@dataclass(frozen=True)
class _Flat:
    """The layer with `count` last axes as one before it, and its last axis as several behind it."""

    count: int
    shape: tuple[int, ...]

    def __call__(self, module: Any, x: Any) -> list[Any]:
        y = module(x.flatten(-self.count) if self.count > 1 else x)
        return [y.unflatten(-1, self.shape) if len(self.shape) > 1 else y]
