"""Drop ops that hand on their operand unchanged, gradient included: detach stays, except of what has no gradient.

%y = clone(%x); %z = relu(%y)   ->   %z = relu(%x)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..ir import ByMode, Graph, Node, Value

ALWAYS = frozenset(
    {
        "aten.alias.default",
        "aten.clone.default",
        "aten.contiguous.default",
        "aten.lift_fresh_copy.default",
        "aten.lift_fresh.default",
        "aten.resolve_conj.default",
        "aten.resolve_neg.default",
        "aten.positive.default",
        "prims.view_of.default",
    }
)
DETACHES = ("aten.detach.default", "aten.detach_copy.default")
SAME_TYPE = (
    "aten.to.",
    "aten._to_copy.",
    "aten.type_as.",
    "aten.expand.",
    "aten.expand_as.",
    "aten.view.",
    "aten.reshape.",
    "aten.flatten.",
    "aten.squeeze.",
    "prims.convert_element_type.",
    "aten.view_as.",
    "aten.reshape_as.",
    "aten.slice.",
    "aten.broadcast_to.",
)
LEAST_END = 2**31


@dataclass(frozen=True)
class DropNoops:
    """Replace the result of a no-op by its operand."""

    def run(self, graph: Graph, tensors: dict[str, Any]) -> Graph:
        replaced: dict[Value, Value] = {}
        constant = {p.value for p in graph.parameters.values() if p.kind != "parameter"}  # no gradient to stop
        for n in graph.nodes:
            if (
                n.args
                and isinstance(n.args[0], Value)
                and (_is_noop(n) or (n.op in DETACHES and n.args[0] in constant))
            ):
                replaced[n.outputs[0]] = n.args[0]
                constant |= {n.outputs[0]} if n.args[0] in constant else set()
        return graph.rebuilt([n for n in graph.nodes if not (n.outputs and n.outputs[0] in replaced)], replaced)


def _is_noop(node: Node) -> bool:
    if len(node.outputs) != 1:
        return False
    if node.op in ALWAYS:
        return True
    if node.op == "aten.dropout.default":
        return node.args[1] == 0 or node.args[2] is False
    if (
        isinstance(node.args[-1], ByMode)
        or node.args[0].type != node.outputs[0].type
        or not node.op.startswith(SAME_TYPE)
    ):
        return False
    if node.op.startswith("aten.slice."):
        _, dim, start, end, step = node.args
        size = node.args[0].type.shape[dim]
        whole = (
            end is None
            or end == size
            or (isinstance(end, int) and end >= LEAST_END)
            or (isinstance(end, int) and isinstance(size, int) and end >= size)
        )
        return start in (None, 0) and whole and step == 1
    return True
