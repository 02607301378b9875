"""An LSTM that adds one bias, as Keras' does: torch has a second one, which came from nowhere and never changes.

%y, %h, %c = aten.lstm.input(%x, [%zeros, %zeros], [%w, %u, %b, %fixed], ...)
->  aten.lstm.input(%x, [], [%w, %u, %b, None], ...)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ..ir import Arg, Graph, Node, Value


@dataclass(frozen=True)
class SingleBias:
    """fixed: names of tensors that the source has no variable for. One layer in one direction, without projection."""

    fixed: Collection[str]

    def run(self, graph: Graph, tensors: dict[str, Any]) -> Graph:
        zeros = {graph.parameters[n].value for n in self.fixed if n in graph.parameters and not tensors[n].any()}
        made = graph.producers()

        def is_zeros(state: Arg) -> bool:
            node = made.get(state) if isinstance(state, Value) else None
            return node is not None and node.op == "aten.zeros.default"

        def rewritten(node: Node) -> Node:
            if node.op != "aten.lstm.input":
                return node
            x, states, params, biases, layers, _, _, both, batch_first = node.args
            if not biases or layers != 1 or both or batch_first or len(params) != 4 or params[3] not in zeros:
                return node
            first = [] if all(is_zeros(s) for s in states) else list(states)
            return node.replace(args=(x, first, [*params[:3], None], *node.args[3:]))

        return dataclasses.replace(graph, nodes=[rewritten(n) for n in graph.nodes])
