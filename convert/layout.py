"""Every decision about channel order, and nowhere else.

A tensor of the Keras model is *placed*: `perm[j]` is the torch axis that stands at physical position j. torch order is
the
identity; channels last is (0, 2, ..., 1). Permuting ops cost nothing: they only relabel. A transpose is made when a
rule
asks for an order the tensor does not have, once per tensor and order.

    conv (N,H,W,C) -> perm (0,2,3,1)   relu: keeps it   flatten(2).transpose(1,2): relabels   linear: identity again
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .ir import Dim, Graph, Node, TensorType, Value
from .rules.registry import RULES, Layout, Rule

Perm = tuple[int, ...]


@dataclass(frozen=True)
class Placed:
    """A tensor together with its torch-side type and its axis order."""

    tensor: Any
    type: TensorType
    perm: Perm

    @property
    def physical(self) -> tuple[Dim, ...]:
        return tuple(self.type.shape[a] for a in self.perm)


def identity(rank: int) -> Perm:
    return tuple(range(rank))


def channels_last(rank: int) -> Perm:
    """(N, C, *spatial) -> (N, *spatial, C)."""
    return (0, *range(2, rank), 1) if rank > 2 else identity(rank)


def is_identity(perm: Perm) -> bool:
    return perm == identity(len(perm))


def relative(source: Perm, target: Perm) -> Perm:
    """The argument of a transpose that takes a tensor placed as `source` to `target`."""
    return tuple(source.index(a) for a in target)


def moves_data(shape: Sequence[Dim], transpose: Perm) -> bool:
    """Whether the transpose moves data: axes of size one may go anywhere for free."""
    order = [a for a in transpose if shape[a] != 1]
    return order != sorted(order)


def after_reduction(perm: Perm, removed: Sequence[int]) -> Perm:
    """The order of the axes that are left, renumbered."""
    kept = [a for a in perm if a not in removed]
    return tuple(sorted(kept).index(a) for a in kept)


# ------------------------------------------------------------------------------------------------------ permuting ops
def _swap(rank: int, a: int, b: int) -> Perm:
    dims = list(range(rank))
    dims[a], dims[b] = dims[b], dims[a]
    return tuple(dims)


def _movedim(rank: int, source: Any, destination: Any) -> Perm:
    src = [s % rank for s in ([source] if isinstance(source, int) else source)]
    dst = [d % rank for d in ([destination] if isinstance(destination, int) else destination)]
    rest = iter([i for i in range(rank) if i not in src])
    at = dict(zip(dst, src, strict=True))
    return tuple(at[i] if i in at else next(rest) for i in range(rank))


PERMUTES: dict[str, Callable[..., Perm]] = {
    "aten.permute.default": lambda rank, dims: tuple(d % rank for d in dims),
    "aten.transpose.int": lambda rank, a, b: _swap(rank, a, b) if rank else (),
    "aten.t.default": lambda rank: _swap(rank, 0, 1) if rank == 2 else identity(rank),
    "aten.numpy_T.default": lambda rank: identity(rank)[::-1],
    "aten.mT.default": lambda rank: _swap(rank, -2, -1),
    "aten.adjoint.default": lambda rank: _swap(rank, -2, -1),
    "aten.swapaxes.default": lambda rank, a, b: _swap(rank, a, b),
    "aten.swapdims.default": lambda rank, a, b: _swap(rank, a, b),
    "aten.movedim.int": _movedim,
    "aten.movedim.intlist": _movedim,
    "aten.moveaxis.int": _movedim,
    "aten.moveaxis.intlist": _movedim,
}


def permuted(node: Node, x: Placed) -> Placed:
    """The result of a permuting op: the same tensor, relabelled."""
    dims = PERMUTES[node.op](x.type.rank, *node.args[1:])
    return Placed(x.tensor, node.outputs[0].type, tuple(dims.index(a) for a in x.perm))


# -------------------------------------------------------------------------------------------------------- reshaping ops
RESHAPES = frozenset(
    {
        "aten.view.default",
        "aten.reshape.default",
        "aten._unsafe_view.default",
        "aten.flatten.using_ints",
        "aten.unflatten.int",
        "aten.unsqueeze.default",
        "aten.squeeze.default",
        "aten.squeeze.dim",
        "aten.squeeze.dims",
        "aten.view_as.default",
        "aten.reshape_as.default",
    }
)


def reshape_groups(source: Sequence[Dim], target: Sequence[Dim]) -> list[tuple[list[int], list[int]]] | None:
    """Split a reshape into independent pieces: (source axes, target axes) with equal products, or None where unclear.

    [b, c, h, w] -> [b, c, h*w] gives ([0],[0]), ([1],[1]), ([2,3],[2]). Axes of size one stand alone where they can.
    """
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(source) or j < len(target):
        if i < len(source) and j < len(target) and source[i] == target[j]:
            groups.append(([i], [j]))
            i, j = i + 1, j + 1
            continue
        if i < len(source) and source[i] == 1:
            groups.append(([i], []))
            i += 1
            continue
        if j < len(target) and target[j] == 1:
            groups.append(([], [j]))
            j += 1
            continue
        left: list[int] = []
        right: list[int] = []
        p = q = 1
        while True:  # grow the smaller side until the static products meet
            if p == q and left and right:
                break
            if (p <= q and i < len(source)) or j >= len(target):
                size = source[i] if i < len(source) else None
                if not isinstance(size, int):
                    return _with_rest(groups, left, right, i, j, source, target)
                p *= size
                left.append(i)
                i += 1
            else:
                size = target[j] if j < len(target) else None
                if not isinstance(size, int):
                    return _with_rest(groups, left, right, i, j, source, target)
                q *= size
                right.append(j)
                j += 1
            if 0 in (p, q):
                return None
        groups.append((left, right))
    return groups


def _with_rest(
    groups: list[tuple[list[int], list[int]]],
    left: list[int],
    right: list[int],
    i: int,
    j: int,
    source: Sequence[Dim],
    target: Sequence[Dim],
) -> list[tuple[list[int], list[int]]]:
    """Dims of unknown product: match equal trailing axes, and take all that lies between as one group."""
    a, b = len(source), len(target)
    tail: list[tuple[list[int], list[int]]] = []
    while a > i and b > j and source[a - 1] == target[b - 1]:
        a, b = a - 1, b - 1
        tail.append(([a], [b]))
    return [*groups, (left + list(range(i, a)), right + list(range(j, b))), *reversed(tail)]


def reshape_orders(x: Placed, target: Sequence[Dim]) -> tuple[Perm, Perm]:
    """The order to bring `x` to before a reshape, and the order in which the result then comes out.

    Each piece of the reshape (see `reshape_groups`) needs its axes together and in torch's order; the pieces may stand
    in any
    order. So a flatten of (N,H,W,C) and a channel shuffle on it never go through torch's order.
    """
    plain = identity(x.type.rank), identity(len(target))
    if is_identity(x.perm):
        return plain
    groups = reshape_groups(x.type.shape, target)
    if groups is None:
        return plain
    position = {axis: p for p, axis in enumerate(x.perm)}
    placed: list[tuple[float, list[int], list[int]]] = []
    previous = -1.0
    for left, right in groups:
        moving = [position[a] for a in left if x.type.shape[a] != 1]
        previous = float(min(moving)) if moving else previous + 1e-3
        placed.append((previous, left, right))
    placed.sort(key=lambda p: p[0])
    before = tuple(a for _, left, _ in placed for a in left)
    after = tuple(a for _, _, right in placed for a in right)
    return before, after


# ------------------------------------------------------------------------------------------------------------- choices
def size_of(shape: Sequence[Dim], unknown: int = 64) -> int:
    """Elements, with a guess for unknown dims."""
    return math.prod(d if isinstance(d, int) else unknown for d in shape)


def order_for(rule: Rule, operands: Sequence[Placed], rank: int) -> Perm:
    """The order an ELEMENTWISE or MAPPED op works in: that of its largest operands, so the fewest bytes move."""
    if rule.layout is Layout.MAPPED:
        rank = operands[0].type.rank if operands else rank
    weight: dict[Perm, int] = {}
    for x in operands:
        if x.type.rank == rank:
            weight[x.perm] = weight.get(x.perm, 0) + size_of(x.type.shape)
    if not weight:
        return identity(rank)
    return max(weight, key=lambda p: (weight[p], is_identity(p)))


def feeds_spatial(graph: Graph, value: Value) -> bool:
    """Whether an input is an image, a signal or a volume: what first changes it, behind elementwise ops, works on
    spatial axes."""
    users, seen, queue = graph.users(), set(), [value]
    while queue:
        v = queue.pop()
        if v in seen or v.type.rank != value.type.rank:
            continue
        seen.add(v)
        for node in users[v]:
            rule = RULES.get(node.op)
            if rule is None:
                continue
            if rule.layout is Layout.SPATIAL and node.inputs[0] is v:
                return True
            if rule.layout in (Layout.ELEMENTWISE, Layout.MAPPED):
                queue += node.outputs
    return False
