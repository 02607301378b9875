"""Rules: writing by index. Every op becomes one scatter into the flat tensor, or into its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from ..promote import category
from .index import adjacent, count, index_pairs, joint_index, trimmed, wrapped
from .operands import plus
from .registry import rule
from .shape import filled, iota, plain

SEGMENT = {"prod": ops.segment_prod, "multiply": ops.segment_prod, "amax": ops.segment_max, "amin": ops.segment_min}


def write(k: Any, rows: Any, places: Any, values: Any, how: str = "", include_self: bool = True) -> Any:
    """`values` (m, *rest) written to `places` (m,) of `rows` (n, *rest). how: "" replaces; sum, mean, prod, amax, amin.

    Ties of amax and amin share the gradient evenly, as torch does; that is what TensorFlow's segment ops do, too.
    """
    at = ops.expand_dims(places, -1)
    if not how:
        return ops.scatter_update(rows, at, values)
    (n,) = plain(k.shape(rows)[0])
    touched = None
    if not include_self or how == "mean":
        hits = count(k, places, n, "int64")
        hits = k.reshape(hits, [n] + [1] * (len(rows.shape) - 1))
        touched = hits > 0
    if how in ("sum", "add", "mean"):
        base = rows if include_self else ops.where(touched, ops.zeros_like(rows), rows)
        total = ops.scatter_update(base, at, values, reduction="add")
        if how != "mean":
            return total
        share = ops.maximum(hits + 1 if include_self else hits, 1)
        integral = category(k.out.dtype) < 2
        return ops.floor_divide(total, k.cast(share, k.out.dtype)) if integral else total / k.cast(share, k.out.dtype)
    if include_self:
        ids = ops.concatenate([iota(k, n), k.cast(places, "int64")], axis=0)
        return SEGMENT[how](ops.concatenate([rows, values], axis=0), ids, num_segments=n)
    return ops.where(touched, SEGMENT[how](values, places, num_segments=n), rows)


# ------------------------------------------------------------------------------------------------------------- scatter
def scatter_along(k: Any, x: Any, dim: int, index: Any, src: Any, how: str = "", include_self: bool = True) -> Any:
    """`src` (a tensor or number) at the places of `index` along `dim`, all other axes at their own place."""
    shape = [k.size(d) for d in k.out.shape]
    if not k.rank(x) or not k.rank(index):
        index = k.reshape(index, (-1,) if k.rank(x) < 2 else (1,) * k.rank(x))
        src = (
            src if isinstance(src, (bool, int, float)) else k.reshape(src, (-1,) if k.rank(x) < 2 else (1,) * k.rank(x))
        )
        x = k.reshape(x, (1,)) if not k.rank(x) else x
    rank = k.rank(x)
    dim %= rank
    sizes, extent = plain(*k.shape(x)), plain(*k.shape(index))
    values = filled(k, extent, src, k.out.dtype) if isinstance(src, (bool, int, float)) else trimmed(k, src, index)
    place = None
    for a in range(rank):
        here = (
            k.cast(index, "int64")
            if a == dim
            else k.reshape(iota(k, extent[a]), [extent[a] if b == a else 1 for b in range(rank)])
        )
        place = here if place is None else plus(ops.multiply(place, sizes[a]), here)
    flat = write(k, k.reshape(x, (-1,)), k.reshape(place, (-1,)), k.reshape(values, (-1,)), how, include_self)
    return k.reshape(flat, shape)


@rule("aten.scatter.src", "aten.scatter.value")
def scatter(k: Any, x: Any, dim: int, index: Any, src: Any) -> Any:
    return scatter_along(k, x, dim, index, src)


@rule("aten.scatter.reduce", "aten.scatter.value_reduce")
def scatter_in(k: Any, x: Any, dim: int, index: Any, src: Any, reduce: str) -> Any:
    return scatter_along(k, x, dim, index, src, reduce)


@rule("aten.scatter_add.default")
def scatter_add(k: Any, x: Any, dim: int, index: Any, src: Any) -> Any:
    return scatter_along(k, x, dim, index, src, "sum")


@rule("aten.scatter_reduce.two")
def scatter_reduce(k: Any, x: Any, dim: int, index: Any, src: Any, reduce: str, include_self: bool = True) -> Any:
    return scatter_along(k, x, dim, index, src, reduce, include_self)


# --------------------------------------------------------------------------------------------------------- whole slices
def write_slices(k: Any, x: Any, dim: int, index: Any, source: Any, how: str = "", include_self: bool = True) -> Any:
    """Slices of `source` along `dim` written to the places of a flat `index`."""
    index = k.reshape(index, (-1,))
    if not k.rank(x):
        return k.reshape(write(k, k.reshape(x, (1,)), index, k.reshape(source, (-1,)), how, include_self), ())
    source = source if k.rank(source) == k.rank(x) else k.reshape(source, (1,))
    rows = write(k, ops.moveaxis(x, dim, 0), index, ops.moveaxis(source, dim, 0), how, include_self)
    return ops.moveaxis(rows, 0, dim)


@rule("aten.index_add.default")
def index_add(k: Any, x: Any, dim: int, index: Any, source: Any, alpha: Any = 1) -> Any:
    return write_slices(k, x, dim, index, source if alpha == 1 else source * alpha, "sum")


@rule("aten.index_copy.default")
def index_copy(k: Any, x: Any, dim: int, index: Any, source: Any) -> Any:
    return write_slices(k, x, dim, index, source)


@rule("aten.index_reduce.default")
def index_reduce(k: Any, x: Any, dim: int, index: Any, source: Any, reduce: str, include_self: bool = True) -> Any:
    return write_slices(k, x, dim, index, source, reduce, include_self)


@rule("aten.index_fill.int_Scalar", "aten.index_fill.int_Tensor")
def index_fill(k: Any, x: Any, dim: int, index: Any, value: Any) -> Any:
    axis = dim % max(1, k.rank(x))
    (n,) = plain(k.shape(x)[axis] if k.rank(x) else 1)
    index = wrapped(k, k.reshape(index, (-1, 1)), n)
    here = ops.any(ops.equal(index, k.reshape(iota(k, n), (1, n))), axis=0)
    here = k.reshape(here, [n if a == axis else 1 for a in range(k.rank(x))])
    value = k.cast(value, k.out.dtype) if hasattr(value, "shape") else filled(k, (), value, k.out.dtype)
    return ops.where(here, value, x)


# -------------------------------------------------------------------------------------------------------- index tensors
@rule("aten.index_put.default", "aten._unsafe_index_put.default")
def index_put(k: Any, x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    mask = _lone_mask(k, indices, values)
    if mask is not None:
        axis = len(indices) - 1
        mask = k.reshape(mask, [*[1] * axis, *k.shape(mask), *[1] * (k.rank(x) - axis - k.rank(mask))])
        values = k.reshape(values, ())
        return ops.where(mask, plus(x, values) if accumulate else values, x)
    pairs = index_pairs(k, x, indices)
    if not pairs:
        return plus(x, values) if accumulate else k.broadcast_to(values, k.shape(x))
    axes = [a for a, _ in pairs]
    others = [a for a in range(k.rank(x)) if a not in axes]
    order = [*axes, *others]
    sizes = k.shape(x)
    rest = [sizes[a] for a in others]
    joint, total = joint_index(k, x, pairs)
    extent = list(k.shape(joint))
    first = axes[0] if adjacent(axes) else 0
    values = k.broadcast_to(values, [*rest[:first], *extent, *rest[first:]])
    lead = list(range(first, first + len(extent)))
    values = ops.transpose(values, [*lead, *(a for a in range(len(values.shape)) if a not in lead)])
    rows = k.reshape(ops.transpose(x, order), [total, *rest])
    rows = write(k, rows, k.reshape(joint, (-1,)), k.reshape(values, [-1, *rest]), "sum" if accumulate else "")
    return ops.transpose(k.reshape(rows, [sizes[a] for a in order]), [order.index(a) for a in range(len(order))])


def _lone_mask(k: Any, indices: Sequence[Any], values: Any) -> Any:
    """The mask of `x[:, mask] = number`, which needs no list of places; None for all else."""
    given = [i for i in indices if i is not None]
    if len(given) != 1 or given[0] is not indices[-1] or k.dtype(given[0]) not in ("bool", "uint8"):
        return None
    return k.cast(given[0], "bool") if all(d == 1 for d in k.type(values).shape) else None


@rule("aten.put.default")
def put(k: Any, x: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    flat = k.reshape(x, (-1,))
    places = wrapped(k, k.reshape(index, (-1,)), k.shape(flat)[0])
    return k.reshape(
        write(k, flat, places, k.reshape(source, (-1,)), "sum" if accumulate else ""), [k.size(d) for d in k.out.shape]
    )


@rule("aten.masked_scatter.default")
def masked_scatter(k: Any, x: Any, mask: Any, source: Any) -> Any:
    sizes = [k.size(d) for d in k.out.shape]
    mask = k.reshape(k.broadcast_to(mask, sizes), (-1,))
    place = ops.maximum(ops.cumsum(k.cast(mask, "int64")) - 1, 0)
    (limit,) = plain(k.shape(k.reshape(source, (-1,)))[0])
    drawn = ops.take(k.reshape(source, (-1,)), ops.minimum(place, limit - 1), axis=0)
    return ops.where(k.reshape(mask, sizes), k.reshape(drawn, sizes), k.broadcast_to(x, sizes))
