"""Drop nodes nobody reads and that change nothing, and parameters no node reads.

%y = relu(%x); %z = exp(%x); return [%y]   ->   %y = relu(%x); return [%y]
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..ir import Graph, Value, free_dims


@dataclass(frozen=True)
class DropDead:
    """Dead-code elimination. Parameters and buffers of the module stay (they belong to its state); unread constants
    go."""

    def run(self, graph: Graph, tensors: dict[str, Any]) -> Graph:
        live: set[Value] = set(graph.results())
        dims: frozenset[str] = frozenset()
        kept = []
        for node in reversed(graph.nodes):
            bound = free_dims([v.type for v in node.outputs]) if node.op == "aten.item.default" else frozenset()
            if node.updates_statistics or bound & dims or any(v in live for v in node.outputs):
                live.update(node.inputs)
                dims |= node.symbols | free_dims([v.type for v in node.outputs])
                kept.append(node)
        parameters = {n: p for n, p in graph.parameters.items() if p.kind != "constant" or p.value in live}
        return dataclasses.replace(graph, nodes=kept[::-1], parameters=parameters)
