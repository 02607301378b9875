"""Transposes that undo each other go, also with ops between them that do not care for the order of axes.

before: x -> Transpose(0, 3, 1, 2) -> Relu -> Add(bias) -> Transpose(0, 2, 3, 1) -> y
after:  x -> Relu -> Add(bias') -> y

A transpose moves elements and computes nothing, so that values and gradients stay what they were (a sum may add in
another order).
"""

from __future__ import annotations

import onnx_ir as ir

from .one_axis import axes_of, constant_integers, replace_value, sink_unsqueezes
from .permute import Perm, perm_of, transposed
from .regions import turn_regions
from .tracing import trace

__all__ = ["cancel"]

ROUNDS = 50


def cancel(graph: ir.Graph) -> None:
    """Until nothing is left to gain: merge neighbours, and turn regions of ops over to the order that their inputs had
    before they were transposed."""
    for _ in range(ROUNDS):
        if not (_merge(graph) | _lift(graph) | sink_unsqueezes(graph) | turn_regions(graph)):
            return


def _merge(graph: ir.Graph) -> bool:
    """Two transposes in a row become one or none."""
    changed = False
    for node in list(graph):
        perm = perm_of(node)
        if perm is None or node.graph is None or node.inputs[0] is None or trace(node.outputs[0]) is not None:
            continue
        before = perm_of(node.inputs[0].producer())
        source = node.inputs[0]
        if before is not None:
            perm, source = tuple(before[p] for p in perm), source.producer().inputs[0]
            changed = True
        if list(perm) == sorted(perm):
            replace_value(node.outputs[0], source)
            changed = True
        elif before is not None:
            node.replace_input_with(0, source)
            node.attributes["perm"] = ir.AttrInt64s("perm", perm)
    _drop_unread(graph)
    return changed


def _lift(graph: ir.Graph) -> bool:
    """A transpose behind an axis of size 1 that was put in moves before it; one before such an axis is taken away moves
    behind that: so they meet others of their rank."""
    changed = False
    for node in list(graph):
        axes = axes_of(node)
        if axes is None or trace(node.outputs[0]) is not None or not _known(node.inputs[0], node.outputs[0]):
            continue
        assert node.inputs[0] is not None
        if node.op_type == "Unsqueeze":
            for user in [u.node for u in node.outputs[0].uses()]:
                perm = perm_of(user)
                if perm is not None:
                    new = {a % len(perm) for a in axes}
                    own = _narrowed(perm, new)
                    inner = transposed(node.inputs[0], own) if list(own) != sorted(own) else node.inputs[0]
                    made = _with_axes("Unsqueeze", inner, sorted(perm.index(a) for a in new), user)
                    replace_value(user.outputs[0], made)
                    changed = True
        else:
            producer = node.inputs[0].producer()
            perm = perm_of(producer)
            if perm is not None and producer is not None and producer.inputs[0] is not None:
                gone = {perm[a % len(perm)] for a in axes}
                own = _narrowed(perm, gone)
                inner = _with_axes("Squeeze", producer.inputs[0], sorted(gone), node)
                replace_value(node.outputs[0], transposed(inner, own) if list(own) != sorted(own) else inner)
                changed = True
    _drop_unread(graph)
    return changed


def _known(*values: ir.Value | None) -> bool:
    """Whether the ranks of all values are."""
    return all(v is not None and v.shape is not None for v in values)


def _narrowed(perm: Perm, gone: set[int]) -> Perm:
    """The permutation without these axes of what it permutes."""
    rest = [p for p in perm if p not in gone]
    return tuple(sorted(rest).index(p) for p in rest)


def _with_axes(op: str, value: ir.Value, axes: list[int], before: ir.Node) -> ir.Value:
    """A new Squeeze or Unsqueeze of a value, put in front of a node."""
    graph, dims = before.graph, list(value.shape or ())
    assert graph is not None
    held = constant_integers(axes)
    node = ir.Node("", op, [value, held.outputs[0]])
    if op == "Squeeze":
        dims = [d for i, d in enumerate(dims) if i not in axes]
    else:
        for axis in axes:
            dims.insert(axis, 1)
    made = node.outputs[0]
    made.type, made.shape, made.name = value.type, ir.Shape(dims), f"{value.name}/{op.lower()}"
    graph.insert_before(before, [held, node])
    return made


def _drop_unread(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        unread = not any(v.uses() or v.is_graph_output() for v in node.outputs)
        if unread and node.op_type in ("Transpose", "Squeeze", "Unsqueeze", "Constant") and not node.domain:
            graph.remove(node, safe=True)
