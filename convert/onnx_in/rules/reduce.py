"""Reductions, positions of extremes, running sums and products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..operands import dtype_of, ints, leaf, number, rank_of, shape_of
from ..registry import rule
from .dtypes import from_ordered, in_integers, to_ordered, unsigned
from .elementwise import absolute

Dims = tuple[int, ...]
Reduction = Callable[[Any, Dims, bool], Any]


# ------------------------------------------------------------------ one function for each, of operands and of tensors
def reduce_sum(x: Any, dims: Dims, keep: bool) -> Any:
    if unsigned(x) is not None:
        return torch.sum(x.to(torch.int64), dims, keep).to(dtype_of(x))
    return summed(x, x, dims, keep)


def summed(values: Any, x: Any, dims: Dims, keep: bool) -> Any:
    """The sum of what was made of x, in the type of x: torch would widen integers."""
    return torch.sum(values, dims, keep, dtype=dtype_of(x)) if in_integers(x) else torch.sum(values, dims, keep)


def reduce_mean(x: Any, dims: Dims, keep: bool) -> Any:
    """Of integers: cut to an integer."""
    if in_integers(x):
        return torch.mean(x.to(torch.float64), dims, keep).to(dtype_of(x))
    return torch.mean(x, dims, keep)


def reduce_prod(x: Any, dims: Dims, keep: bool) -> Any:
    dtype = dtype_of(x)
    wide = x.to(torch.int64) if in_integers(x) else x
    for dim in sorted(dims, reverse=True):
        wide = torch.prod(wide, dim, keep)
    return wide.to(dtype) if in_integers(x) else wide


def reduce_max(x: Any, dims: Dims, keep: bool) -> Any:
    return _extreme(x, dims, keep, torch.amax, lowest)


def reduce_min(x: Any, dims: Dims, keep: bool) -> Any:
    return _extreme(x, dims, keep, torch.amin, highest)


def _extreme(x: Any, dims: Dims, keep: bool, function: Any, neutral: Any) -> Any:
    shape, dtype = shape_of(x), unsigned(x)
    if shape is not None and any(shape[d] == 0 for d in dims):
        found = dtype_of(x) or torch.float32
        return torch.full_like(torch.sum(x.to(torch.float64), dims, keep), neutral(found), dtype=found)
    if dtype is not None:
        return from_ordered(function(to_ordered(x, dtype), dims, keep), dtype)
    return function(x, dims, keep)


def lowest(dtype: torch.dtype) -> float:
    """What the maximum of nothing is."""
    return 0 if dtype == torch.bool else -torch.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def highest(dtype: torch.dtype) -> float:
    """What the minimum of nothing is."""
    return 1 if dtype == torch.bool else torch.inf if dtype.is_floating_point else torch.iinfo(dtype).max


def reduce_l1(x: Any, dims: Dims, keep: bool) -> Any:
    return reduce_sum(x, dims, keep) if unsigned(x) is not None else summed(torch.abs(x), x, dims, keep)


def reduce_l2(x: Any, dims: Dims, keep: bool) -> Any:
    """Its derivative is 0 where the result is."""
    if in_integers(x):
        return torch.linalg.vector_norm(x.to(torch.float64), 2, dims, keep).to(dtype_of(x))
    return torch.linalg.vector_norm(x, 2, dims, keep)


def reduce_sum_square(x: Any, dims: Dims, keep: bool) -> Any:
    if unsigned(x) is not None:
        return torch.sum(x.to(torch.int64) ** 2, dims, keep).to(dtype_of(x))
    return summed(x * x, x, dims, keep)


def reduce_log_sum(x: Any, dims: Dims, keep: bool) -> Any:
    if in_integers(x):
        return torch.log(torch.sum(x.to(torch.float64), dims, keep)).to(dtype_of(x))
    return torch.log(torch.sum(x, dims, keep))


def reduce_log_sum_exp(x: Any, dims: Dims, keep: bool) -> Any:
    if in_integers(x):
        return torch.logsumexp(x.to(torch.float64), dims, keep).to(dtype_of(x))
    return torch.logsumexp(x, dims, keep)


# op -> (its function, the version from which the axes are an input)
REDUCTIONS: dict[str, tuple[Reduction, int]] = {
    "ReduceSum": (reduce_sum, 13),
    "ReduceMean": (reduce_mean, 18),
    "ReduceProd": (reduce_prod, 18),
    "ReduceMax": (reduce_max, 18),
    "ReduceMin": (reduce_min, 18),
    "ReduceL1": (reduce_l1, 18),
    "ReduceL2": (reduce_l2, 18),
    "ReduceSumSquare": (reduce_sum_square, 18),
    "ReduceLogSum": (reduce_log_sum, 18),
    "ReduceLogSumExp": (reduce_log_sum_exp, 18),
}
# op -> what it does to each element when no axis is reduced
ELEMENTWISE: dict[str, Callable[[Any], Any]] = {
    "ReduceL1": absolute,
    "ReduceL2": absolute,
    "ReduceSumSquare": lambda x: x * x,
    "ReduceLogSum": torch.log,
}


def reduce_over(op: str, x: Any, axes: Any, keepdims: int, noop: int) -> Any:
    """The reduction over these axes, or over all: recorded plainly where the axes and the rank are known."""
    rank = rank_of(x)
    known = axes is None or (isinstance(axes, tuple) and all(isinstance(a, int) for a in axes))
    if rank is None or dtype_of(x) is None or not known:
        return reduced(op, x, axes, keepdims, noop)
    if (not axes and noop) or not rank:
        return ELEMENTWISE[op](x) if op in ELEMENTWISE else x
    dims = tuple(sorted(a % rank for a in axes)) if axes else tuple(range(rank))
    return REDUCTIONS[op][0](x, dims, bool(keepdims))


@leaf
def reduced(op: str, x: torch.Tensor, axes: Any, keepdims: int, noop: int) -> torch.Tensor:
    """A reduction whose axes, or their number, are known at run time only."""
    result: torch.Tensor = reduce_over(op, x, None if axes is None else tuple(axes), keepdims, noop)
    return result


def _by_attribute(op: str) -> Callable[..., Any]:
    def apply(x: Any, *, axes: Any = None, keepdims: int = 1) -> Any:
        return reduce_over(op, x, axes, keepdims, 0)

    return apply


def _by_input(op: str) -> Callable[..., Any]:
    def apply(x: Any, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
        return reduce_over(op, x, ints(axes), keepdims, noop_with_empty_axes)

    return apply


for _op, (_, _since) in REDUCTIONS.items():
    rule(_op)(_by_attribute(_op))
    rule(_op, since=_since)(_by_input(_op))


# ----------------------------------------------------------------------------------------------- positions of extremes
def _position(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(x: Any, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Any:
        dtype = unsigned(x)
        x = x if dtype is None else to_ordered(x, dtype)
        if not select_last_index:
            return function(x, axis, bool(keepdims))
        return x.size(axis) - 1 - function(torch.flip(x, (axis,)), axis, bool(keepdims))

    return apply


rule("ArgMax")(_position(torch.argmax))
rule("ArgMin")(_position(torch.argmin))


# ---------------------------------------------------------------------------------------------- running sums, products
def _running(function: Callable[..., Any], neutral: int) -> Callable[..., Any]:
    def apply(x: Any, axis: Any, *, exclusive: int = 0, reverse: int = 0) -> Any:
        axis, dtype = number(axis), unsigned(x)
        wide = x if dtype is None else x.to(torch.int64)
        wide = torch.flip(wide, (axis,)) if reverse else wide
        if exclusive:
            wide = shifted(wide, axis, neutral)
        kind = {"dtype": torch.int64 if dtype is not None else dtype_of(x)} if in_integers(x) else {}
        result = function(wide, axis, **kind)
        result = torch.flip(result, (axis,)) if reverse else result
        return result if dtype is None else result.to(dtype)

    return apply


@leaf
def shifted(x: torch.Tensor, axis: int, first: int) -> torch.Tensor:
    """x moved by one along the axis, with `first` in front."""
    front = torch.full_like(x.narrow(axis, 0, min(1, x.size(axis))), first)
    return torch.cat([front, x.narrow(axis, 0, max(x.size(axis) - 1, 0))], axis)


rule("CumSum", since=11)(_running(torch.cumsum, 0))
rule("CumProd", since=26)(_running(torch.cumprod, 1))
