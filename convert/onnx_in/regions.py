"""Connected regions of ops that do not care for the order of axes, turned to the order that saves transposes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import onnx_ir as ir

from .one_axis import constant_integers
from .permute import ON_TRIAL, Perm, inverse, perm_of, permuted_shape, rank_of, transposed
from .tracing import integers_of, trace

__all__ = ["turn_regions"]

_ELEMENTWISE = """Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor
Cast Ceil Celu Clip Cos Cosh Div Dropout Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual
HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul
Neg Not Or Pow PRelu Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt
Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor"""
ELEMENTWISE = frozenset(_ELEMENTWISE.split())


@dataclass
class Region:
    """Ops of one rank that are connected. values: what they make."""

    rank: int
    nodes: list[ir.Node] = field(default_factory=list)
    values: set[ir.Value] = field(default_factory=set)

    @cached_property
    def members(self) -> set[ir.Node]:
        """The nodes, once all are there."""
        return set(self.nodes)

    def incoming(self) -> list[ir.Value]:
        """What they read from outside and is no constant."""
        read = (v for n in self.nodes for v in _operands(n) if v not in self.values and not _is_constant(v))
        return list(dict.fromkeys(v for v in read if rank_of(v) == self.rank))

    def outgoing(self) -> list[tuple[ir.Node, int, ir.Value]]:
        """Who reads their values outside."""
        uses = [(u.node, u.idx, v) for v in self.values for u in v.uses()]
        return [(n, i, v) for n, i, v in uses if n not in self.members]


def turn_regions(graph: ir.Graph) -> bool:
    changed = False
    for region in list(_regions(graph)):
        perms = [perm_of(v.producer()) for v in region.incoming()]
        candidates = list(dict.fromkeys(p for p in perms if p is not None))
        candidates += [
            inverse(q)
            for n, _, _ in region.outgoing()
            if (q := perm_of(n)) is not None and inverse(q) not in candidates
        ]
        best = min(candidates, key=lambda p: _gain(region, p), default=None)
        if best is not None and _gain(region, best) < 0:
            _turn(region, best)
            changed = True
    return changed


def _gain(region: Region, perm: Perm) -> int:
    """How many transposes more there would be, if the region kept a value v' for each v, v = v'.transpose(perm)."""
    change = 0
    for value in region.incoming():
        if perm_of(value.producer()) == perm:
            inside = all(u.node in region.members for u in value.uses())
            change -= _cost(value.producer()) if inside and not value.is_graph_output() else 0
        else:
            change += 1
    readers: dict[ir.Value, list[ir.Node]] = {}
    for node, _, value in region.outgoing():
        readers.setdefault(value, []).append(node)
    for value in region.values:
        mine = readers.get(value, [])
        undone = [n for n in mine if perm_of(n) == inverse(perm)]
        rest = [n for n in mine if perm_of(n) is None and not _absorbs(n, perm)]
        change += bool(rest or value.is_graph_output()) - sum(_cost(n) for n in undone)
    return change


def _cost(node: ir.Node | None) -> int:
    """What a Transpose counts: one put at the border on trial nothing."""
    return 0 if node is None or ON_TRIAL in node.meta else 1


def _turn(region: Region, perm: Perm) -> None:
    back = inverse(perm)
    read = region.outgoing()
    turned = {v: _before(v, perm, back, region) for v in region.incoming()}
    for node in region.nodes:
        for i, value in enumerate(node.inputs):
            if value is None or value in region.values:
                continue
            if value in turned:
                node.replace_input_with(i, turned[value])
            elif _is_constant(value) and i < _data_inputs(node):
                node.replace_input_with(i, _constant_before(value, back, region.rank, node))
        if node.op_type == "Concat":
            axis = node.attributes["axis"].value % region.rank
            node.attributes["axis"] = ir.AttrInt64("axis", perm[axis])
        _move_axes(node, perm)
    outputs = [v for v in region.values if v.is_graph_output()]
    for value in region.values:
        value.shape = permuted_shape(value, back)
    made: dict[ir.Value, ir.Value] = {}
    for node, i, value in read:
        if perm_of(node) is None and _absorbs(node, perm):
            _move_axes(node, perm)
            continue
        if value not in made:
            made[value] = transposed(value, perm)
        node.replace_input_with(i, made[value])
    for value in outputs:
        graph = value.graph
        assert graph is not None
        new = made.get(value) or transposed(value, perm)
        new.name, value.name = value.name, f"{value.name}/inner"
        graph.outputs[list(graph.outputs).index(value)] = new


def _before(value: ir.Value, perm: Perm, back: Perm, region: Region) -> ir.Value:
    """A value from outside in the new order."""
    producer = value.producer()
    if producer is not None and perm_of(producer) == perm and producer.inputs[0] is not None:
        return producer.inputs[0]
    return transposed(value, back, region.nodes[0])


def _constant_before(value: ir.Value, back: Perm, rank: int, node: ir.Node) -> ir.Value:
    """A constant, which may have fewer axes, in the new order."""
    found = trace(value)
    assert found is not None
    if all(d == 1 for d in found.shape):
        return value
    if len(found.shape) < rank:
        full = (1,) * (rank - len(found.shape)) + found.shape
        held = constant_integers(list(full))
        new = ir.Node("", "Reshape", [value, held.outputs[0]])
        new.outputs[0].type, new.outputs[0].shape, new.outputs[0].name = (
            value.type,
            ir.Shape(full),
            f"{value.name}/full",
        )
        assert node.graph is not None
        node.graph.insert_before(node, [held, new])
        value = new.outputs[0]
    return transposed(value, back, node)


def _regions(graph: ir.Graph) -> Iterable[Region]:
    """The connected regions, largest axes first as they come."""
    seen: set[ir.Node] = set()
    order = {n: i for i, n in enumerate(graph)}
    for start in graph:
        rank = _turnable(start)
        if rank is None or start in seen:
            continue
        region, queue = Region(rank), [start]
        seen.add(start)
        for node in queue:
            region.nodes.append(node)
            region.values |= set(node.outputs)
            near = [v.producer() for v in _operands(node)] + [u.node for v in node.outputs for u in v.uses()]
            for other in near:
                if other is not None and other not in seen and other.graph is graph and _turnable(other) == rank:
                    seen.add(other)
                    queue.append(other)
        region.nodes.sort(key=order.__getitem__)
        yield region


def _turnable(node: ir.Node) -> int | None:
    """The rank of an op that works in any order of axes; None for another."""
    rank = rank_of(node.outputs[0]) if node.outputs else None
    if node.domain or rank is None or rank < 3:
        return None
    if sum(bool(v.uses() or v.is_graph_output()) for v in node.outputs) > 1:
        return None
    reduces = node.op_type.startswith("Reduce") and _axes(node) is not None and _keeps(node)
    if not (node.op_type in ELEMENTWISE or node.op_type == "Concat" or reduces):
        return None
    if ("axis" in node.attributes and node.op_type != "Concat") or "broadcast" in node.attributes:
        return None
    for value in _operands(node):
        if rank_of(value) != rank and not _is_constant(value) and rank_of(value) != 0:
            return None
        if _is_constant(value) and node.op_type in ("Concat", "PRelu") and rank_of(value) != rank:
            return None
    return rank if any(rank_of(v) == rank and not _is_constant(v) for v in _operands(node)) else None


def _data_inputs(node: ir.Node) -> int:
    """How many of its inputs are data, and not what says how."""
    return 1 if node.op_type.startswith("Reduce") or node.op_type in ("Dropout", "Clip") else len(node.inputs)


def _operands(node: ir.Node) -> list[ir.Value]:
    return [v for v in node.inputs[: _data_inputs(node)] if v is not None]


def _is_constant(value: ir.Value) -> bool:
    return trace(value) is not None


# ---------------------------------------------------------------------------------------------------------- reductions
def _axes(node: ir.Node) -> Perm | None:
    """The axes of a reduction, None where they are not known or all."""
    if "axes" in node.attributes:
        return tuple(node.attributes["axes"].value)
    return integers_of(node.inputs[1]) if len(node.inputs) > 1 else None


def _keeps(node: ir.Node) -> bool:
    return "keepdims" not in node.attributes or bool(node.attributes["keepdims"].value)


def _absorbs(node: ir.Node, perm: Perm) -> bool:
    """Whether an op that reads v can read v' instead, v = v'.transpose(perm), and give the same."""
    axes = _axes(node) if node.op_type.startswith("Reduce") and not node.domain else None
    if axes is None or _keeps(node):
        return False
    rank = len(perm)
    gone = {a % rank for a in axes}
    rest = [perm[i] for i in range(rank) if i not in gone]
    return rest == sorted(rest)


def _move_axes(node: ir.Node, perm: Perm) -> None:
    """The axes of a reduction in the new order."""
    axes = _axes(node) if node.op_type.startswith("Reduce") else None
    if axes is None:
        return
    moved = [perm[a % len(perm)] for a in axes]
    if "axes" in node.attributes:
        node.attributes["axes"] = ir.AttrInt64s("axes", sorted(moved))
        return
    held = constant_integers(sorted(moved))
    assert node.graph is not None
    node.graph.insert_before(node, held)
    node.replace_input_with(1, held.outputs[0])
