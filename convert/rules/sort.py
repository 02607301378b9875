"""Rules: order: sort, top k, the nanmedian, distinct values.

Equal elements keep their order (torch promises that for stable=True only; where it does not, any order is right).
Values come back through a gather by index, so their gradient goes where torch sends it. NaN is above +inf, as in torch;
the backends leave its place open.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from ..builder import Dynamic
from ..promote import category
from .operands import plus
from .registry import MAPPED, rule
from .shape import Size, part, plain


def reversed_order(k: Any, x: Any) -> Any:
    """A key that sorts the other way round; ~x is -x-1, which every integer has."""
    return ops.bitwise_not(x) if category(str(k.dtype(x))) == 1 else ops.negative(x)


def sorting_index(k: Any, x: Any, axis: int, descending: bool = False) -> Any:
    key = k.cast(x, "int32") if str(k.dtype(x)) in ("bool", "uint8") else x
    key = reversed_order(k, key) if descending else key
    if category(str(k.dtype(x))) < 2:
        return ops.argsort(key, axis=axis)
    nan = ops.isnan(x)
    order = ops.argsort(ops.where(nan, -np.inf if descending else np.inf, key), axis=axis)
    return beyond_infinity(order, nan, axis, descending)


def beyond_infinity(order: Any, nan: Any, axis: int, first: bool) -> Any:
    """An order in which NaNs stand among infinities, with all of them at its beginning or at its end."""
    flags = ops.take_along_axis(ops.cast(nan, "int32"), order, axis=axis)
    return ops.take_along_axis(order, ops.argsort(ops.negative(flags) if first else flags, axis=axis), axis=axis)


@rule("aten.sort.default", "aten.sort.stable", layout=MAPPED)
def sort(k: Any, x: Any, dim: int = -1, descending: bool = False, stable: bool | None = None) -> Any:
    if not k.rank(x):
        return x, ops.cast(ops.zeros_like(x), "int64")
    order = sorting_index(k, x, k.axis(dim), descending)
    return ops.take_along_axis(x, order, axis=k.axis(dim)), order


@rule("aten.msort.default")
def msort(k: Any, x: Any) -> Any:
    return ops.take_along_axis(x, sorting_index(k, x, 0), axis=0)


@rule("aten.argsort.default", "aten.argsort.stable", layout=MAPPED)
def argsort(k: Any, x: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    return sorting_index(k, x, k.axis(dim), descending) if k.rank(x) else ops.cast(ops.zeros_like(x), "int64")


@rule("aten.topk.default", layout=MAPPED)
def topk(k: Any, x: Any, count: Size, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    if not k.rank(x):
        return x, ops.cast(ops.zeros_like(x), "int64")
    axis = k.axis(dim)
    (count,) = plain(count)
    rows = ops.moveaxis(x, axis, -1)
    key = rows if largest else reversed_order(k, rows)
    last = len(rows.shape) - 1
    if category(str(k.dtype(x))) < 2:
        _, places = ops.top_k(key, count, sorted=True)
    else:
        nan = ops.isnan(rows)
        _, places = ops.top_k(ops.where(nan, np.inf if largest else -np.inf, key), count, sorted=True)
        places = beyond_infinity(places, nan, last, largest)
    return ops.moveaxis(ops.take_along_axis(rows, places, axis=-1), -1, axis), ops.moveaxis(places, -1, axis)


def picked(k: Any, x: Any, place: Any, axis: int, keepdim: bool) -> tuple[Any, Any]:
    """Values and places for one place (kept as an axis of size one) along `axis`."""
    value = ops.take_along_axis(x, place, axis=axis)
    return (value, place) if keepdim else (ops.squeeze(value, axis), ops.squeeze(place, axis))


@rule("aten.kthvalue.default", layout=MAPPED)
def kthvalue(k: Any, x: Any, count: Size, dim: int = -1, keepdim: bool = False) -> Any:
    if not k.rank(x):
        return x, ops.cast(ops.zeros_like(x), "int64")
    (axis,) = k.reduce([dim], keepdim)
    (count,) = plain(count)
    return picked(k, x, part(sorting_index(k, x, axis), axis, count - 1, count), axis, keepdim)


def nanmedian_place(k: Any, x: Any, axis: int) -> Any:
    """Where the lower median of the numbers among the elements stands (kept as an axis of size one). NaNs sort last."""
    nan = ops.isnan(x) if category(str(k.dtype(x))) > 1 else ops.zeros_like(x, dtype="bool")
    order = sorting_index(k, ops.where(nan, float("inf"), x) if category(str(k.dtype(x))) > 1 else x, axis)
    valid = ops.sum(ops.cast(ops.logical_not(nan), "int32"), axis=axis, keepdims=True)
    return ops.take_along_axis(order, ops.maximum(valid - 1, 0) // 2, axis=axis)


@rule("aten.nanmedian.dim", layout=MAPPED)
def nanmedian_dim(k: Any, x: Any, dim: int, keepdim: bool = False) -> Any:
    if not k.rank(x):
        return x, ops.cast(ops.zeros_like(x), "int64")
    (axis,) = k.reduce([dim], keepdim)
    return picked(k, x, nanmedian_place(k, x, axis), axis, keepdim)


@rule("aten.nanmedian.default")
def nanmedian(k: Any, x: Any) -> Any:
    """The lower median of all elements; its gradient is shared evenly by all elements equal to it."""
    flat = k.reshape(x, (-1,))
    place = nanmedian_place(k, flat, 0)
    value = ops.stop_gradient(k.reshape(ops.take(flat, place, axis=0), ()))
    if category(k.out.dtype) < 2:
        return value
    equal = ops.logical_or(ops.equal(flat, value), ops.logical_and(ops.isnan(flat), ops.isnan(value)))
    carrier = ops.where(ops.isfinite(flat), flat, ops.zeros_like(flat))
    nothing = ops.where(equal, carrier - ops.stop_gradient(carrier), ops.zeros_like(flat))  # zero, with the gradient
    return plus(value, ops.sum(nothing) / k.cast(ops.sum(ops.cast(equal, "int32")), k.out.dtype))


@rule("aten.mode.default", layout=MAPPED)
def mode(k: Any, x: Any, dim: int = -1, keepdim: bool = False) -> tuple[Any, Any]:
    """The most frequent value, the least of several, and the last place where it stands (torch promises none)."""
    if not k.rank(x):
        return x, ops.cast(ops.zeros_like(x), "int64")
    (axis,) = k.reduce([dim], keepdim)
    rows = ops.moveaxis(x, axis, -1)
    order = sorting_index(k, rows, len(rows.shape) - 1)
    rows = ops.take_along_axis(rows, order, axis=-1)
    often = ops.sum(ops.cast(ops.equal(ops.expand_dims(rows, -1), ops.expand_dims(rows, -2)), "int32"), axis=-1)
    first = ops.argmax(often, axis=-1, keepdims=True)
    last = ops.cast(first, "int32") + ops.take_along_axis(often, first, axis=-1) - 1
    return picked(k, x, ops.moveaxis(ops.take_along_axis(order, last, axis=-1), -1, axis), axis, keepdim)


# ------------------------------------------------------------------------------------------------------ distinct values
@rule("aten._unique2.default", "aten.unique_consecutive.default")
def unique(k: Any, x: Any, *flags: Any) -> Any:
    """Distinct values (sorted, or runs as they come), each element's group, the sizes of the groups; call time only."""
    if "consecutive" in k.node.op and flags[2] is not None:
        raise NotImplementedError("unique_consecutive along one axis")
    if k.functional:
        raise Dynamic("the number of distinct values is only known at call time")
    flat = ops.reshape(x, (-1,))
    consecutive = "consecutive" in k.node.op
    order = ops.arange(ops.shape(flat)[0]) if consecutive else sorting_index(k, flat, 0)
    arranged = ops.take(flat, order, axis=0)
    first = ops.concatenate(
        [ops.ones_like(arranged[:1], dtype="bool"), ops.not_equal(arranged[1:], arranged[:-1])], axis=0
    )
    starts = ops.cast(ops.nonzero(first)[0], "int64")
    group = ops.cumsum(ops.cast(first, "int64")) - 1
    inverse = ops.scatter_update(ops.zeros_like(group), ops.expand_dims(order, -1), group)
    ends = ops.concatenate([starts[1:], ops.cast(ops.reshape(ops.shape(flat)[0], (1,)), "int64")], axis=0)
    outputs = [o.type for o in k.node.outputs]
    made = [ops.take(arranged, starts, axis=0), ops.reshape(inverse, ops.shape(x)), ends - starts]
    return tuple(
        m if o.rank == len(m.shape) and o.shape != (0,) else ops.zeros((0,) * o.rank, o.dtype)
        for m, o in zip(made, outputs, strict=True)
    )
