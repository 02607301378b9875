"""BatchNorm's call counter belongs to the layer, not to the graph.

    %n1 = add(%num_batches_tracked, 1); mutate bn.num_batches_tracked <- %n1   ->   (nothing: the layer counts)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..ir import Graph, Value

BATCH_NORMS = ("aten.batch_norm.default",)


@dataclass(frozen=True)
class AbsorbBatchCounters:
    """Drop the counter's update where a batch_norm with running statistics of the same module counts itself."""

    def run(self, graph: Graph, tensors: dict[str, Any]) -> Graph:
        owned = graph.parameter_of()
        counted: set[str] = set()
        for node in graph.nodes:
            if node.op in BATCH_NORMS and isinstance(node.args[3], Value) and node.args[3] in owned:
                counted.add(f"{owned[node.args[3]].name.removesuffix('running_mean')}num_batches_tracked")
        read = {v for n in graph.nodes for v in n.inputs} | {o for o in graph.outputs if isinstance(o, Value)}
        counted -= {m.buffer for m in graph.mutations if m.value in read}  # somebody else looks at it: the graph has to count
        mutations = [m for m in graph.mutations if m.buffer not in counted]
        dropped = {m.value for m in graph.mutations if m.buffer in counted}
        nodes = [n for n in graph.nodes if not any(v in dropped for v in n.outputs)]
        return dataclasses.replace(graph, nodes=nodes, mutations=mutations)
