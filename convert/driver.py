"""Lower one node through its rule, in either regime: bring the operands into order, promote, call, label the
results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from . import layout
from .builder import Builder, Concrete, Dynamic
from .ir import Arg, ByMode, GraphError, Node, Sym, TensorType, Value, leaves
from .layout import Placed
from .promote import common_dtype
from .rules.registry import RULES, LayerForm, Layout, Rule
from .weights import ParamRef

Fetch = Callable[[Value], Placed]
Make = Callable[[Node, layout.Perm], Builder]
Move = Callable[[Builder, Placed, layout.Perm], Placed]


def bring(
    k: Builder, x: Placed, perm: layout.Perm, count: Callable[[Placed, layout.Perm], None] | None = None
) -> Placed:
    """`x` in the order `perm`. A move of size-one axes alone is a reshape; `count` hears of real transposes."""
    if x.perm == perm:
        return x
    axes = layout.relative(x.perm, perm)
    if not layout.moves_data(x.physical, axes):
        try:
            shape = [x.physical[a] for a in axes]
            return Placed(k.reshape(x.tensor, [k.size(d) for d in shape]), x.type, perm)
        except Dynamic:
            pass
    elif count is not None:
        count(x, perm)
    return Placed(ops.transpose(x.tensor, axes), x.type, perm)


def lower(
    node: Node, make: Make, fetch: Fetch, move: Move = bring, form: LayerForm | None = None
) -> list[Placed] | None:
    """The node's results. Raises Dynamic where the regime cannot hold the op, GraphError where a rule breaks its
    contract.

    `move` brings an operand into order. With `form` the layer form is called instead of the rule; None: it declined.
    """
    if node.op in layout.PERMUTES:
        return [layout.permuted(node, fetch(node.args[0]))]
    if node.op in layout.RESHAPES:
        return [_reshape(node, make, fetch, move)]
    rule = RULES[node.op]
    tensors = {v: fetch(v) for v in dict.fromkeys(node.inputs)}
    perm = _perm(rule, node, tensors)
    k = make(node, perm)
    if k.functional and any(v.type.dtype.startswith("complex") for v in (*node.inputs, *node.outputs)):
        raise Dynamic("complex numbers")  # Keras' layers and symbolic ops know real dtypes only
    promote = _promoted_dtype(node) if rule.promote else None

    def argument(a: Arg, order: layout.Perm | None) -> Any:
        if isinstance(a, Value):
            return _operand(k, rule, tensors[a], order, promote, move)
        if isinstance(a, Sym):
            return k.size(a)
        if isinstance(a, ByMode) and isinstance(k, Concrete):
            return a.pick(k.training)
        if isinstance(a, (list, tuple)):
            return [argument(b, order) for b in a]
        return a

    first = layout.channels_last(node.inputs[0].type.rank) if rule.layout is Layout.SPATIAL else perm
    rest = None if rule.layout is Layout.SPATIAL else perm
    args = [argument(a, first if i == 0 else rest) for i, a in enumerate(node.args)]
    kwargs = {name: argument(a, rest) for name, a in node.kwargs.items()}
    result = (form.build if form is not None else rule.lower)(k, *args, **kwargs)
    if form is not None and result is None:
        return None
    return _label(node, rule, k, result, perm)


def _perm(rule: Rule, node: Node, tensors: dict[Value, Placed]) -> layout.Perm:
    if rule.layout in (Layout.TORCH, Layout.SPATIAL):
        return ()
    operands = [x for x in tensors.values() if not isinstance(x.tensor, ParamRef)]
    if rule.layout is Layout.MAPPED:
        return layout.order_for(rule, [tensors[v] for v in leaves(list(node.args)) if isinstance(v, Value)], 0)
    return layout.order_for(rule, operands, node.outputs[0].type.rank)


def _operand(k: Builder, rule: Rule, x: Placed, order: layout.Perm | None, promote: str | None, move: Move) -> Any:
    if isinstance(x.tensor, ParamRef):
        return x.tensor
    rank = x.type.rank
    if order and len(order) == rank:
        x = move(k, x, order)
    else:
        x = move(k, x, layout.identity(rank))
        if order and rule.layout is Layout.ELEMENTWISE and 0 < rank < len(order) and not layout.is_identity(order):
            lifted = TensorType((*[1] * (len(order) - rank), *x.type.shape), x.type.dtype)
            tensor = x.tensor
            for _ in range(len(order) - rank):
                tensor = ops.expand_dims(tensor, 0)
            x = bring(k, Placed(tensor, lifted, layout.identity(len(order))), order)
    if promote is not None and x.type.dtype != promote:
        x = Placed(k.cast(x.tensor, promote), x.type.with_dtype(promote), x.perm)
    k.note(x.tensor, x.type, x.perm)
    return x.tensor


def _promoted_dtype(node: Node) -> str:
    if node.outputs[0].type.dtype != "bool":
        return node.outputs[0].type.dtype
    numbers = [a for a in leaves(list(node.args)) if isinstance(a, (bool, int, float, complex))]
    return common_dtype([v.type for v in node.inputs], numbers)


def _label(node: Node, rule: Rule, k: Builder, result: Any, perm: layout.Perm) -> list[Placed]:
    results = list(result) if isinstance(result, (list, tuple)) else [result]
    if len(results) != len(node.outputs):
        raise GraphError(
            f"rule for {node.op} gave {len(results)} results, the op has {len(node.outputs)}\n"
            f"  {node}\n  from {node.origin}"
        )
    placed = []
    for value, tensor in zip(node.outputs, results, strict=True):
        type_ = value.type
        if rule.layout is Layout.SPATIAL:
            order = layout.channels_last(type_.rank)
        elif not perm:
            order = layout.identity(type_.rank)
        elif k.removed:
            order = layout.after_reduction(perm, k.removed)
        else:
            order = perm if len(perm) == type_.rank else layout.identity(type_.rank)
        if len(tensor.shape) != type_.rank or len(order) != type_.rank:
            raise GraphError(
                f"rule for {node.op} gave rank {len(tensor.shape)}, torch has {type_}\n  {node}\n  from {node.origin}"
            )
        placed.append(Placed(k.cast(tensor, type_.dtype), type_, order))
    return placed


def _reshape(node: Node, make: Make, fetch: Fetch, move: Move) -> Placed:
    """view, flatten, squeeze ...: on the tensor as it lies where the pieces allow it, in torch order otherwise."""
    x, type_ = fetch(node.args[0]), node.outputs[0].type
    k = make(node, ())
    before, order = layout.reshape_orders(x, type_.shape)
    x = move(k, x, before)
    k.note(x.tensor, x.type, x.perm)
    tensor = k.reshape(x.tensor, [k.size(type_.shape[a]) for a in order])
    return Placed(tensor, type_, order)
