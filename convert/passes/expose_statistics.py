"""BatchNorm's running statistics become the graph's own business where no single Keras layer can keep them.

    %y = batch_norm(%x, %w, %b, %mean, %var, <True | False>, 0.1, ...)
->  the same, and
    %m = mean(%x, [0, 2, 3]);  %new = %mean * 0.9 + %m * 0.1;  mutate bn.running_mean <- %new (train)

A layer keeps them for itself where it alone reads the tensors. It cannot where a BatchNorm stands in several places,
runs on two shapes, trains half of its weights, or has its statistics read by others. The update is torch's (unbiased
variance), but where the node is marked POPULATION.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import UnsupportedError
from ..ir import Arg, Graph, Mutation, Node, TensorType, Value, by_mode, fresh_names
from ..merge_modes import SELECT
from ..nesting import one_layer_owns, plan
from .absorb_batch_counters import ABSORBED, BATCH_NORMS, POPULATION

CUMULATIVE = -1.0  # capture.CUMULATIVE: the momentum that stands for the average over all batches


@dataclass(frozen=True)
class ExposeStatistics:
    """See the module."""

    def run(self, graph: Graph, tensors: dict[str, Any]) -> Graph:
        while True:  # a longer graph is cut elsewhere, which may part another layer from its twin
            found = _shared(graph)
            if not found:
                return graph
            graph = _Exposed(graph, found).graph()


def _shared(graph: Graph) -> set[Node]:
    """Batch norms that update statistics in some mode and that no one layer can own."""
    owned = graph.parameter_of()
    mutated = {graph.parameters[m.buffer].value for m in graph.mutations}
    norms = [
        n
        for n in graph.nodes
        if n.op in BATCH_NORMS and n.args[3] in owned and n.args[4] in owned and n.args[3] not in mutated
    ]
    norms = [n for n in norms if by_mode(n.args[5], True) or by_mode(n.args[5], False)]
    if not norms:
        return set()
    cut = plan(graph)
    lost = {
        n.args[3] for n in norms if not one_layer_owns(cut, graph, n, [a for a in n.args[1:5] if isinstance(a, Value)])
    }
    return {n for n in norms if n.args[3] in lost}


@dataclass
class _Exposed:
    """One rewrite: the statistics of the batch norms in `which` are updated by nodes."""

    source: Graph
    which: set[Node]
    nodes: list[Node] = field(default_factory=list)
    held: dict[Value, tuple[Value, str]] = field(default_factory=dict)  # buffer -> what it holds after the call, when
    seen: dict[Value, Value] = field(default_factory=dict)  # buffer -> what a later reader sees

    def graph(self) -> Graph:
        self.fresh: Callable[[str], str] = fresh_names(v.name for v in self.source.values())
        self.owned = self.source.parameter_of()
        for node in self.source.nodes:
            if node in self.which:
                self.nodes.append(node)
                self._update(node)
            else:
                self.nodes.append(
                    node.map_args(self._now) if self.held and any(v in self.held for v in node.inputs) else node
                )
        outputs = [self._now(o) for o in self.source.outputs]
        mutations = [Mutation(self.owned[b].name, new, when) for b, (new, when) in self.held.items()]
        return dataclasses.replace(
            self.source, nodes=self.nodes, outputs=outputs, mutations=[*self.source.mutations, *mutations]
        )

    def _now(self, a: Arg) -> Arg:
        """What a reader after the update sees: in train mode the new statistics."""
        if not isinstance(a, Value) or a not in self.held:
            return a
        new, when = self.held[a]
        if when == "always":
            return new
        if self.seen.get(a) is None:
            self.seen[a] = Value(self.fresh("select_mode"), a.type)
            self.nodes.append(
                Node(SELECT, (new, a) if when == "train" else (a, new), {}, (self.seen[a],), self.nodes[-1].origin)
            )
        return self.seen[a]

    def _update(self, node: Node) -> None:
        x, mean, var, training, momentum = node.args[0], node.args[3], node.args[4], node.args[5], node.args[6]
        modes = by_mode(training, True), by_mode(training, False)
        when = "always" if all(modes) else "train" if modes[0] else "eval"
        origin = node.origin.touched("expose_statistics")
        origin = origin.touched("train only") if when == "train" else origin
        wide = "float64" if x.type.dtype == "float64" else "float32"

        def make(op: str, *args: Arg, type_: TensorType, **kwargs: Arg) -> Value:
            out = Value(self.fresh(op.split(".")[0]), type_)
            self.nodes.append(Node(f"aten.{op}", args, kwargs, (out,), origin))
            return out

        def cast(v: Value, dtype: str) -> Value:
            return v if v.type.dtype == dtype else make("to.dtype", v, dtype, type_=v.type.with_dtype(dtype))

        def keep(buffer: Value, new: Value) -> None:
            if self.held.get(buffer, (new, when))[1] != when:
                raise UnsupportedError(
                    f"{self.owned[buffer].name} is updated in different modes by different calls; "
                    "convert one mode with mode='eval'"
                )
            self.held[buffer] = (new, when)
            self.seen.pop(buffer, None)

        def old(buffer: Value) -> Value:
            return self.held[buffer][0] if buffer in self.held else buffer

        prefix = self.owned[mean].name.removesuffix("running_mean")
        counter = self.source.parameters.get(f"{prefix}num_batches_tracked")
        count = None
        if counter is not None and ABSORBED in node.origin.passes:
            count = make("add.Tensor", old(counter.value), 1, type_=counter.value.type, alpha=1)
            keep(counter.value, count)
        elif counter is not None:
            counts = [m.value for m in self.source.mutations if m.buffer == counter.name]
            count = counts[0] if counts else None
        axes: list[Arg] = [0, *range(2, x.type.rank)]
        batch = cast(x, wide)
        stats = TensorType(mean.type.shape, wide)
        fresh_mean = make("mean.dim", batch, axes, False, type_=stats, dtype=None)
        correction = 0 if POPULATION in node.origin.passes else 1
        fresh_var = make("var.correction", batch, axes, type_=stats, correction=correction, keepdim=False)
        for buffer, new in ((mean, fresh_mean), (var, fresh_var)):
            before = cast(old(buffer), wide)
            if momentum == CUMULATIVE and count is not None:
                step = make("div.Tensor", make("sub.Tensor", new, before, type_=stats, alpha=1), count, type_=stats)
                after = make("add.Tensor", before, step, type_=stats, alpha=1)
            else:
                kept = make("mul.Tensor", before, 1.0 - momentum, type_=stats)
                after = make("add.Tensor", kept, make("mul.Tensor", new, momentum, type_=stats), type_=stats, alpha=1)
            keep(buffer, cast(after, buffer.type.dtype))
