"""Give unbatched spatial ops a batch axis of one: (C, H, W) is legal for torch's conv2d and pools.

%y = conv2d(%x: [3, 8, 8], ...)   ->   %x1 = unsqueeze(%x, 0); %y1 = conv2d(%x1, ...); %y = squeeze(%y1, 0)
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from ..ir import Graph, Node, TensorType, Value, fresh_names
from ..rules.registry import RULES, Layout


def spatial_rank(op: str) -> int | None:
    """The number of spatial axes in the op's name: conv2d -> 2."""
    found = re.search(r"([123])d", op.split(".")[1])
    return int(found[1]) if found else None


@dataclass(frozen=True)
class BatchSpatial:
    """See the module."""

    def run(self, graph: Graph, tensors: dict[str, Any]) -> Graph:
        fresh = fresh_names(v.name for v in graph.values())
        nodes: list[Node] = []
        for node in graph.nodes:
            rule, spatial = RULES.get(node.op), spatial_rank(node.op) if node.op.startswith("aten.") else None
            x = node.args[0] if node.args else None
            if (
                rule is None
                or rule.layout is not Layout.SPATIAL
                or spatial is None
                or not isinstance(x, Value)
                or x.type.rank != spatial + 1
            ):
                nodes.append(node)
                continue
            origin = node.origin.touched("batch_spatial")

            def batched(v: Value, fresh: Any = fresh) -> Value:
                return Value(fresh(v.name), TensorType((1, *v.type.shape), v.type.dtype))

            first = batched(x)
            inner = tuple(batched(v) for v in node.outputs)
            nodes.append(Node("aten.unsqueeze.default", (x, 0), {}, (first,), origin))
            nodes.append(dataclasses.replace(node, args=(first, *node.args[1:]), outputs=inner, origin=origin))
            nodes += [
                Node("aten.squeeze.dim", (v, 0), {}, (old,), origin) for v, old in zip(inner, node.outputs, strict=True)
            ]
        return dataclasses.replace(graph, nodes=nodes)
