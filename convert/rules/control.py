"""Rules: control flow. Branches and loop bodies are graphs of their own, interpreted with the same rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from ..builder import Dynamic
from ..ir import Graph, Value
from .registry import rule


def run(k: Any, graph: Graph, tensors: Sequence[Any]) -> list[Any]:
    """The outputs of a subgraph in the mode, sizes and draws of the op it belongs to."""
    from ..interpret import interpret

    draw = None if k._draws is None else (lambda node, make: k.draw(make))
    return interpret(graph, tensors, {}, k.training, draw, k.env)


@rule("higher_order.cond")
def cond(k: Any, predicate: Any, on_true: Graph, on_false: Graph, operands: Sequence[Any]) -> Any:
    """One of two graphs, by a boolean. Both give tensors of equal types; gradients follow the branch taken."""
    if k.functional:
        raise Dynamic("control flow")
    given = [x for x, a in zip(operands, k.node.args[3], strict=True) if isinstance(a, Value)]
    branches = on_true, on_false
    if isinstance(predicate, (bool, int)):
        return tuple(run(k, branches[0 if predicate else 1], given))
    dtypes = [o.type.dtype for o in k.node.outputs]

    def taken(graph: Graph) -> Any:
        return lambda: tuple(
            k.cast(ops.convert_to_tensor(y), d) for y, d in zip(run(k, graph, given), dtypes, strict=True)
        )

    return tuple(ops.cond(ops.reshape(ops.cast(predicate, "bool"), ()), taken(on_true), taken(on_false)))
