"""Rules: which values occur where: one-hot, buckets, sorted search, membership, counts."""

from __future__ import annotations

from typing import Any

from keras import ops

from .index import count
from .registry import rule
from .shape import filled, iota, plain


@rule("aten.one_hot.default")
def one_hot(k: Any, x: Any, num_classes: int = -1) -> Any:
    (classes,) = plain(k.size(k.out.shape[-1]))
    return ops.cast(ops.equal(ops.expand_dims(x, -1), iota(k, classes)), "int64")


def places(k: Any, boundaries: Any, x: Any, right: bool) -> Any:
    """For each value the number of boundaries below it (or not above it); NaN counts as the greatest."""
    edges, x = k.promoted(boundaries, x)
    if k.rank(edges) == 1:
        found = ops.searchsorted(edges, k.reshape(x, (-1,)), side="right" if right else "left")
        found = k.reshape(found, [k.size(d) for d in k.out.shape])
    else:
        edges, probe = ops.expand_dims(edges, -2), ops.expand_dims(x, -1)
        found = ops.sum(ops.cast(edges <= probe if right else edges < probe, "int32"), axis=-1)
    if not k.dtype(x).startswith(("float", "bfloat")):
        return found
    return ops.where(ops.isnan(x), ops.cast(plain(k.shape(boundaries)[-1])[0], found.dtype), found)


@rule("aten.searchsorted.Tensor", "aten.searchsorted.Scalar")
def searchsorted(
    k: Any,
    edges: Any,
    x: Any,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
) -> Any:
    if sorter is not None:
        edges = ops.take_along_axis(edges, sorter, axis=-1)
        k.note(edges, k.type(sorter).with_dtype(k.dtype(edges)), ())
    return places(k, edges, _tensor(k, x, edges), right or side == "right")


@rule("aten.bucketize.Tensor", "aten.bucketize.Scalar")
def bucketize(k: Any, x: Any, boundaries: Any, out_int32: bool = False, right: bool = False) -> Any:
    return places(k, boundaries, _tensor(k, x, boundaries), right)


def _tensor(k: Any, x: Any, like: Any) -> Any:
    if hasattr(x, "shape"):
        return x
    made = filled(k, (), x, k.dtype(like))
    k.note(made, k.out.with_dtype(k.dtype(like)), ())
    return made


@rule("aten.isin.Tensor_Tensor", "aten.isin.Tensor_Scalar", "aten.isin.Scalar_Tensor")
def isin(k: Any, elements: Any, tests: Any, assume_unique: bool = False, invert: bool = False) -> Any:
    elements, tests = k.promoted(elements, tests)
    if hasattr(elements, "shape"):
        elements = ops.expand_dims(elements, -1)
    found = ops.equal(elements, k.reshape(tests, (-1,)) if hasattr(tests, "shape") else tests)
    found = ops.any(found, axis=-1)
    return ops.logical_not(found) if invert else found


@rule("aten.bincount.default")
def bincount(k: Any, x: Any, weights: Any = None, minlength: int = 0) -> Any:
    bins = ops.maximum(ops.max(x) + 1, minlength) if not isinstance(k.out.shape[0], int) else k.out.shape[0]
    if weights is None:
        return count(k, x, bins, "int64")
    return ops.segment_sum(weights, x, num_segments=bins)


@rule("aten.histc.default")
def histc(k: Any, x: Any, bins: int = 100, least: Any = 0, greatest: Any = 0) -> Any:
    """How many values lie in each of `bins` equal parts of [least, greatest], the last one closed; values outside count
    nowhere. Equal bounds stand for the values' own extremes, or for one on either side of these where they are equal
    too."""
    x = ops.stop_gradient(k.reshape(x, (-1,)))
    low, high = least, greatest
    if not least < greatest:
        low, high = ops.min(x), ops.max(x)
        low, high = ops.where(low == high, low - 1, low), ops.where(low == high, high + 1, high)
    part = ops.cast(ops.floor((x - low) * bins / (high - low)), "int32")
    part = ops.where(ops.logical_and(x >= low, x <= high), ops.minimum(part, bins - 1), -1)
    hits = ops.equal(ops.expand_dims(part, 0), ops.expand_dims(ops.cast(iota(k, bins), "int32"), 1))
    return ops.sum(k.cast(hits, k.out.dtype), axis=1)
