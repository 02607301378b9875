"""Compute what depends on nothing but constants, once, with torch itself.

%a = arange(4); %m = unsqueeze(%a, 0); %y = add(%x, %m)   ->   own %m  # constant; %y = add(%x, %m)
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..ir import Graph, Node, Parameter, Sym, Value, leaves, map_leaves
from ..rules.registry import RULES

UNFOLDED = frozenset({"aten.empty.memory_format"})


@dataclass(frozen=True)
class FoldConstants:
    """Fold nodes whose operands are all constants. Results above `limit` elements are left to be computed at call
    time."""

    limit: int = 1 << 22

    def run(self, graph: Graph, tensors: dict[str, Any]) -> Graph:
        import torch

        held = [p for p in graph.parameters.values() if p.kind == "constant" and p.name in tensors]
        known: dict[Value, Any] = {p.value: tensors[p.name].to(getattr(torch, p.value.type.dtype)) for p in held}
        made: dict[Value, Any] = {}
        kept = []
        for node in graph.nodes:
            result = self._fold(node, known)
            if result is None:
                kept.append(node)
            else:
                known.update(result)
                made.update(result)
        live = {v for n in kept for v in n.inputs} | set(graph.results())
        parameters = dict(graph.parameters)
        for value, array in made.items():
            if value in live:
                name = f"constant.{value.name}"
                parameters[name] = Parameter(name, value, "constant")
                tensors[name] = array
        return dataclasses.replace(graph, nodes=kept, parameters=parameters)

    def _fold(self, node: Node, known: dict[Value, Any]) -> dict[Value, Any] | None:
        import torch

        from ..capture import overload

        rule = RULES.get(node.op)
        if node.subgraphs or node.op in UNFOLDED or (rule is not None and rule.random) or not node.outputs:
            return None
        if any(v not in known for v in node.inputs) or any(isinstance(a, Sym) for a in leaves(node.all_leaves)):
            return None
        if any(not v.type.is_static or math.prod(v.type.shape) > self.limit for v in node.outputs):  # type: ignore[arg-type]
            return None
        op = overload(node.op)
        if op is None or not hasattr(op, "_schema"):
            return None
        arguments = _arguments(op, node, known)
        wide = any(v.type.dtype in ("float64", "complex128") for v in node.outputs)
        # what torch cannot compute here is computed at call time
        with torch.no_grad(), _default_dtype(wide), contextlib.suppress(Exception):
            result = op(*arguments[0], **arguments[1])
            results = list(result) if isinstance(result, (tuple, list)) else [result]
            if len(results) == len(node.outputs):
                return {v: r.to(getattr(torch, v.type.dtype)) for v, r in zip(node.outputs, results, strict=True)}
        return None


@contextlib.contextmanager
def _default_dtype(wide: bool) -> Iterator[None]:
    """In float64, integers times a number are computed in float64 and not in torch's default dtype."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if wide else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _arguments(op: Any, node: Node, known: dict[Value, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The node's arguments as torch takes them: by schema, with what the graph leaves out at its default."""
    import torch

    from ..fx_body import DROPPED

    def convert(value: Any, kind: str) -> Any:
        def one(a: Any) -> Any:
            if isinstance(a, Value):
                return known[a]
            return getattr(torch, a) if isinstance(a, str) and "ScalarType" in kind else a

        return map_leaves(one, value)

    args, kwargs = [], {}
    skipped = False
    given = iter(node.args)
    for a in op._schema.arguments:
        if a.name in DROPPED:
            skipped = True
            continue
        if a.kwarg_only:
            value = node.kwargs.get(a.name)
            if value is not None:
                kwargs[a.name] = convert(value, str(a.real_type))
            continue
        value = convert(next(given), str(a.real_type))
        if skipped:
            kwargs[a.name] = value
        else:
            args.append(value)
    return args, kwargs
