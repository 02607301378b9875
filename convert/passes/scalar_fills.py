"""A number written into a tensor is a number, not a float32 constant.

    %c = constant 0.2; fill(%x, %c)   ->   fill(%x, 0.2)

`x[:, 0] = 0.2` is exported with 0.2 as a tensor of x's dtype. In a wider dtype the number the user wrote must come
back, not its float32 neighbour, so the shortest decimal that rounds to it is taken.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..ir import Graph, Node, Value

FILLS = {"aten.fill.Tensor": "aten.fill.Scalar"}


@dataclass(frozen=True)
class ScalarFills:
    """See the module. Must run while the constants still have the dtype they were captured in."""

    def run(self, graph: Graph, tensors: dict[str, Any]) -> Graph:
        constants = {p.value: p.name for p in graph.parameters.values() if p.kind == "constant"}

        def rewritten(node: Node) -> Node:
            source = node.args[1] if node.op in FILLS else None
            if not isinstance(source, Value) or source not in constants:
                return node
            if source.type.dtype != node.args[0].type.dtype:  # then the user made the tensor
                return node
            number = written(tensors[constants[source]])
            return node.replace(
                op=FILLS[node.op], args=(node.args[0], number), origin=node.origin.touched("scalar_fills")
            )

        return dataclasses.replace(graph, nodes=[rewritten(n) for n in graph.nodes])


def written(tensor: Any) -> Any:
    """The number a 0-d tensor stands for: for a float, the shortest decimal that rounds to it."""
    array = tensor.detach().cpu()
    if str(array.dtype) == "torch.float32":
        return float(str(array.numpy()[()]))
    return array.item()
