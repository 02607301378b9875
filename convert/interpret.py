"""Run a Graph with the rules, in torch order: what `GraphLayer` does at call time, and the tests' second opinion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras import ops

from .builder import Concrete, evaluated
from .driver import bring, lower
from .ir import Arg, Graph, Node, Sym, TensorType, Value
from .layout import Placed, identity
from .merge_modes import SELECT

Tensor = Any
Draw = Callable[[Node, Callable[[Any], Tensor]], Tensor]


def bind_dims(
    types: Sequence[TensorType], tensors: Sequence[Tensor], known: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Dim names -> sizes, from tensors whose types use them: bare names first, then linear expressions solved."""
    env: dict[str, Any] = dict(known or {})
    later: list[tuple[Sym, Any]] = []
    for t, x in zip(types, tensors, strict=True):
        if t.is_static:
            continue
        for dim, size in zip(t.shape, ops.shape(x), strict=True):
            if isinstance(dim, Sym):
                env.setdefault(dim.text, size)
                if not dim.is_name:
                    later.append((dim, size))
    for dim, size in later:
        missing = sorted(dim.names - env.keys())
        if len(missing) == 1:
            solved = solve(dim, missing[0], size, env)
            if solved is not None:
                env[missing[0]] = solved
    return env


def solve(dim: Sym, name: str, size: Any, env: Mapping[str, Any]) -> Any:
    """The value of `name` for which a linear `dim` equals `size`; None where the expression is not linear in it."""
    if not dim.is_polynomial:
        return None
    others = {n: v for n, v in env.items() if n != dim.text}
    try:
        at = [dim.evaluate({**others, name: v}) for v in (1000, 2000, 5000)]
    except Exception:
        return None
    slope = (at[1] - at[0]) // 1000
    if slope == 0 or at[0] + 4000 * slope != at[2] or at[0] + 1000 * slope != at[1]:
        return None
    return (size - (at[0] - 1000 * slope)) // slope


def interpret(
    graph: Graph,
    inputs: Sequence[Tensor],
    owned: Mapping[str, Tensor] | None = None,
    training: bool = False,
    draw: Draw | None = None,
    dims: Mapping[str, Any] | None = None,
) -> list[Any]:
    """The graph's outputs for backend tensors in torch order. `owned`: parameters by name. `draw` serves random
    nodes."""
    env = {**bind_dims([v.type for v in graph.inputs], inputs), **(dims or {})}
    placed: dict[Value, Placed] = {}
    for v, x in zip(graph.inputs, inputs, strict=True):
        placed[v] = Placed(x, v.type, identity(v.type.rank))
    for name, p in graph.parameters.items():
        placed[p.value] = Placed((owned or {})[name], p.value.type, identity(p.value.type.rank))

    def make(node: Node, _: Any) -> Concrete:
        k = Concrete(node, env, training, (lambda f: draw(node, f)) if draw is not None else None)
        k.perm = _
        return k

    for node in graph.nodes:
        if node.op == SELECT:
            in_train, in_eval = node.args
            placed[node.outputs[0]] = placed[in_train if training else in_eval]
            continue
        results = lower(node, make, placed.__getitem__) or []
        for value, result in zip(node.outputs, results, strict=True):
            placed[value] = result
            if _binds(value, env):
                env = {**bind_dims([value.type], [_torch_order(result, env)], env), **env}

    def out(a: Arg) -> Any:
        if isinstance(a, Value):
            return _torch_order(placed[a], env)
        return evaluated(a, env) if isinstance(a, Sym) else a

    return [out(a) for a in graph.outputs]


def _binds(value: Value, env: Mapping[str, Any]) -> bool:
    """Whether the value's sizes name a dim that is not bound yet (one that depends on data)."""
    return any(isinstance(d, Sym) and len(d.names - env.keys()) == 1 for d in value.type.shape)


def _torch_order(x: Placed, env: Mapping[str, Any]) -> Tensor:
    node = Node("layout", (), {}, (Value("layout", x.type),))
    return bring(Concrete(node, env), x, identity(x.type.rank)).tensor
