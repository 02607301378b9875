"""Shape arithmetic on integers that are known while lowering, as numbers or as sizes of an input.

What exporters write as chains of Shape, Gather, Concat and Mul becomes plain numbers in the generated code.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from ..operands import Sizes, leaf, rank_of, shape_of
from ..registry import rule, size_rule

I64_MAX = 2**63 - 1


@leaf
def from_sizes(items: Any, scalar: bool) -> torch.Tensor:
    """Sizes as an int64 tensor: 1-D, or 0-d if scalar."""
    if scalar:
        return torch.scalar_tensor(items[0], dtype=torch.int64)
    if not items:
        return torch.zeros(0, dtype=torch.int64)
    return torch.stack([torch.scalar_tensor(i, dtype=torch.int64) for i in items])


@leaf
def shape_tensor(x: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """The shape of a tensor whose rank is known at run time only, as an int64 tensor."""
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


def dims_of(x: Any) -> tuple[Any, ...] | None:
    """The dims of a tensor, each a number or a proxy of one; None where the rank is unknown."""
    shape = shape_of(x)
    return None if shape is None else tuple(d if isinstance(d, int) else x.size(i) for i, d in enumerate(shape))


@size_rule("Shape")
def _shape(x: Any, *, start: int = 0, end: int = I64_MAX) -> Any:
    if isinstance(x, Sizes):
        return Sizes((() if x.scalar else (len(x.items),))[start:end])
    dims = dims_of(x)
    return NotImplemented if dims is None else Sizes(dims[start:end])


@rule("Shape")
def shape(x: Any, *, start: int = 0, end: int = I64_MAX) -> Any:
    return shape_tensor(x, start, end)


@size_rule("Size")
def _size(x: Any) -> Any:
    dims = dims_of(x) if not isinstance(x, Sizes) else (len(x.items),)
    return NotImplemented if dims is None else Sizes((product(dims),), True)


@rule("Size")
def size(x: Any) -> Any:
    return from_sizes((x.numel(),), True)


def product(items: tuple[Any, ...]) -> Any:
    result: Any = math.prod(i for i in items if isinstance(i, int))
    for item in items:
        if not isinstance(item, int):
            result = item if isinstance(result, int) and result == 1 else result * item
    return result


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(a: Sizes, b: Sizes, **_: Any) -> Any:
        n = max(len(a.items), len(b.items))
        if any(len(s.items) not in (1, n) for s in (a, b)):
            return NotImplemented
        pairs = zip(*(s.items * (n // len(s.items) if s.items else 1) for s in (a, b)), strict=True)
        return Sizes(tuple(function(x, y) for x, y in pairs), a.scalar and b.scalar)

    return apply


def _truncated(a: Any, b: Any) -> Any:
    """Integer division as ONNX has it, towards zero; sizes are not negative."""
    if isinstance(a, int) and isinstance(b, int):
        return int(math.copysign(abs(a) // abs(b), a * b)) if a * b else 0
    return a // b


for _op, _function in (("Add", operator.add), ("Sub", operator.sub), ("Mul", operator.mul), ("Div", _truncated)):
    size_rule(_op)(_elementwise(_function))


@size_rule("Gather")
def _gather(x: Sizes, index: Sizes, *, axis: int = 0) -> Any:
    if x.scalar or not index.known:
        return NotImplemented
    return Sizes(tuple(x.items[i] for i in index.items), index.scalar)


@size_rule("Slice")
def _slice(x: Sizes, starts: Sizes, ends: Sizes, axes: Sizes | None = None, steps: Sizes | None = None) -> Any:
    if x.scalar or not all(s.known for s in (starts, ends, steps) if s is not None) or len(starts.items) != 1:
        return NotImplemented
    step = 1 if steps is None else steps.items[0]
    return Sizes(x.items[starts.items[0] : ends.items[0] : step]) if step > 0 else NotImplemented


@size_rule("Concat")
def _concat(*parts: Sizes, axis: int) -> Any:
    return Sizes(tuple(i for p in parts for i in p.items))


@size_rule("Squeeze")
def _squeeze(x: Sizes, axes: Sizes | None = None, **_: Any) -> Any:
    return Sizes(x.items, True) if len(x.items) == 1 else NotImplemented


@size_rule("Unsqueeze")
def _unsqueeze(x: Sizes, axes: Sizes | None = None, **_: Any) -> Any:
    return Sizes(x.items) if x.scalar else NotImplemented


@size_rule("Reshape")
def _reshape(x: Sizes, shape: Sizes, **_: Any) -> Any:
    if shape.items in ((-1,), (len(x.items),)):
        return Sizes(x.items)
    return Sizes(x.items, True) if shape.items == () else NotImplemented


@size_rule("Cast")
def _cast(x: Sizes, *, to: int, **_: Any) -> Any:
    return x if to in (6, 7) else NotImplemented


@size_rule("Identity")
def _identity(x: Sizes) -> Any:
    return x


@size_rule("ReduceProd")
def _reduce_prod(x: Sizes, axes: Any = None, *, keepdims: int = 1, **_: Any) -> Any:
    return Sizes((product(x.items),), not keepdims) if not x.scalar else NotImplemented


def static_rank(x: Any) -> int:
    """The rank of an operand. Raises ValueError where it is unknown before the run."""
    rank = rank_of(x)
    if rank is None:
        raise ValueError("the rank of its input is not known")
    return rank
