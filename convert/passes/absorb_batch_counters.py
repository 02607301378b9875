"""BatchNorm's call counter belongs to the layer, not to the graph.

%n1 = add(%num_batches_tracked, 1); mutate bn.num_batches_tracked <- %n1   ->   (nothing: the layer counts)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..ir import Graph, Value

BATCH_NORMS = ("aten.batch_norm.default",)
ABSORBED = "absorb_batch_counters"  # in a node's passes: it counts the batches itself
POPULATION = "population variance"  # in a node's passes: its running variance moves by the batch's own, as Keras' does


@dataclass(frozen=True)
class AbsorbBatchCounters:
    """Drop the counter's update, and mark the module's batch_norms: they count themselves (F.batch_norm does not)."""

    def run(self, graph: Graph, tensors: dict[str, Any]) -> Graph:
        owned = graph.parameter_of()
        counters = {
            node: f"{owned[node.args[3]].name.removesuffix('running_mean')}num_batches_tracked"
            for node in graph.nodes
            if node.op in BATCH_NORMS and isinstance(node.args[3], Value) and node.args[3] in owned
            if node.args[5] is not False  # one that only reads the statistics counts nothing
        }
        counted = set(counters.values()) & {m.buffer for m in graph.mutations}
        read = {v for n in graph.nodes for v in n.inputs} | {o for o in graph.outputs if isinstance(o, Value)}
        counted -= {
            m.buffer for m in graph.mutations if m.value in read
        }  # somebody else looks at it: the graph has to count
        mutations = [m for m in graph.mutations if m.buffer not in counted]
        dropped = {m.value for m in graph.mutations if m.buffer in counted}
        nodes = [n for n in graph.nodes if not any(v in dropped for v in n.outputs)]
        nodes = [n.replace(origin=n.origin.touched(ABSORBED)) if counters.get(n) in counted else n for n in nodes]
        return dataclasses.replace(graph, nodes=nodes, mutations=mutations)
