"""A relu under a function of infinite slope, written so that its zero gradient stays zero.

    %y = relu(%x); %z = sqrt(%y)   ->   %n = le(%x, 0); %y = where(%n, 0, %x); %z = sqrt(%y)

At zero the slope of sqrt is infinite. torch's relu *selects* zero there; TensorFlow's multiplies by zero, and inf * 0
is NaN: one
zero distance, or one empty pooling window, would destroy the training. Everywhere else the fused relu stays.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..ir import Graph, Node, TensorType, Value, fresh_names
from ..layout import PERMUTES, RESHAPES

INFINITE = frozenset({f"aten.{n}.default" for n in ("sqrt", "rsqrt", "log", "log2", "log10", "reciprocal")})
LINEAR = frozenset(
    {f"aten.{n}.{o}" for n in ("mul", "div", "add", "sub") for o in ("Tensor", "Scalar")}
    | {"aten.sum.default", "aten.sum.dim_IntList", "aten.mean.default", "aten.mean.dim", "aten.neg.default"}
    | RESHAPES
    | PERMUTES.keys()
)


@dataclass(frozen=True)
class GuardRelu:
    """See the module."""

    def run(self, graph: Graph, tensors: dict[str, Any]) -> Graph:
        users = graph.users()
        fresh = fresh_names(v.name for v in graph.values())
        nodes: list[Node] = []
        for node in graph.nodes:
            if node.op != "aten.relu.default" or not _reaches_infinity(node.outputs[0], users):
                nodes.append(node)
                continue
            x, y = node.args[0], node.outputs[0]
            cut = Value(fresh(f"{y.name}_cut"), TensorType(y.type.shape, "bool"))  # not "positive": a NaN must pass
            origin = node.origin.touched("guard_relu")
            nodes.append(Node("aten.le.Scalar", (x, 0), {}, (cut,), origin))
            nodes.append(Node("aten.where.ScalarSelf", (cut, 0.0, x), {}, (y,), origin))
        return dataclasses.replace(graph, nodes=nodes)


def _reaches_infinity(value: Value, users: dict[Value, list[Node]]) -> bool:
    seen, queue = set(), [value]
    while queue:
        v = queue.pop()
        if v in seen:
            continue
        seen.add(v)
        for node in users[v]:
            if node.op in INFINITE or (node.op == "aten.pow.Tensor_Scalar" and node.args[1] < 1):
                return True
            if node.op in LINEAR:
                queue += node.outputs
    return False
