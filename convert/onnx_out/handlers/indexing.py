"""Scans, segments, updates and look-ups by position."""

from __future__ import annotations

import numpy as np

from .call import Call, Value, handler


@handler("Cumprod", "CumulativeLogsumexp")
def cumulative(call: Call, x: Value, axis: Value) -> Value:
    """Over a (n, n) triangle of copies: ONNX scans sums alone."""
    if axis.array is None:
        raise ValueError(f"{call.node.type} over an axis that is not known while converting")
    at = int(axis.array) % x.rank
    kind, neutral = ("Prod", 1) if call.node.type == "Cumprod" else ("LogSumExp", -np.inf)
    order = [i for i in range(x.rank) if i != at] + [at]
    index = call.range(x.size(at))
    row, column = index.unsqueeze(1), index.unsqueeze(0)
    if call.attr("reverse", False):
        row, column = column, row
    seen = column < row if call.attr("exclusive", False) else column <= row
    spread = seen.where(x.transpose(*order).unsqueeze(x.rank - 1), neutral)
    back = list(np.argsort(order))
    return spread.reduce(kind, x.rank).transpose(*(int(i) for i in back))


@handler("XlaDynamicUpdateSlice")
def dynamic_update_slice(call: Call, x: Value, update: Value, start: Value) -> Value:
    """`update` over x from `start` on, moved inwards where it would leave x."""
    size, new = (call.op("Concat", *[v.size(i) for i in range(x.rank)], axis=0) for v in (x, update))
    begin = call.op("Min", call.op("Max", start.cast("int64"), call.const(0, "int64")), size - new)
    pads = call.op("Concat", begin, size - new - begin, axis=0)
    covered = call.op(
        "Pad", call.op("Expand", call.const(True, "bool"), new).cast("int32"), pads, call.const(0, "int32")
    )
    return covered.cast("bool").where(_padded(call, update, pads), x)


def _padded(call: Call, x: Value, pads: Value) -> Value:
    if x.dtype == np.bool_:
        return _padded(call, x.cast("int32"), pads).cast("bool")
    return call.op("Pad", x, pads, call.const(0, x.dtype))


@handler("BroadcastArgs")
def broadcast_args(call: Call, a: Value, b: Value) -> Value:
    """The shape that two shapes broadcast to."""
    rank = [v.dims[0] for v in (a, b)]
    if None in rank:
        raise ValueError("BroadcastArgs of shapes of unknown length")
    longest = max(r for r in rank if r is not None)
    ones = [call.const([1] * (longest - (r or 0)), a.dtype) for r in rank]
    a, b = (call.op("Concat", one, v, axis=0) for one, v in zip(ones, (a, b), strict=True))
    return a.equal(1).where(b, a)


@handler("InTopKV2")
def in_top_k(call: Call, predictions: Value, targets: Value, k: Value) -> Value:
    """Whether fewer than k predictions are greater than the target's. False for a target out of range, or where the
    target's prediction or one that could go before it is not finite."""
    targets = targets.cast("int64")
    legal = (targets >= 0) & (targets < predictions.size(1))
    at = legal.where(targets, 0).unsqueeze(1)
    own = call.op("GatherElements", predictions, at, axis=1)
    ahead = (predictions > own).cast("int64").reduce("Sum", 1)
    odd = call.op("IsNaN", predictions) | call.op("IsInf", predictions)
    return legal & (ahead < k.cast("int64")) & ~odd.cast("int32").reduce("Max", 1).cast("bool")


@handler("TopKV2")
def top_k(call: Call, x: Value, k: Value) -> list[Value]:
    """In the dtype of x: tf2onnx sorts float64 as float32, and integers above 2^24 with it."""
    wide = x.cast("int32") if x.dtype.kind in "iu" and x.dtype.itemsize < 4 else x
    values, indices = call.ops("TopK", 2, wide, k.cast("int64").reshape(1), axis=-1, largest=1, sorted=1)
    return [values.cast(x.dtype), indices.cast(call.output_dtype(1))]


@handler("Bucketize")
def bucketize(call: Call, x: Value) -> Value:
    """How many boundaries are at most x."""
    boundaries = call.const(call.attr("boundaries"), "float32")
    value = x.cast("float32") if x.dtype != np.float64 else x
    return (value.unsqueeze(x.rank) >= boundaries.cast(value.dtype)).cast("int32").reduce("Sum", x.rank)


@handler("OneHot")
def one_hot(call: Call, x: Value, depth: Value, on: Value, off: Value) -> Value:
    """An index below 0 or from depth on has no hot element; ONNX's OneHot counts negative ones from the end."""
    axis = call.attr("axis", -1)
    axis = x.rank if axis == -1 else axis
    classes = call.range(depth.reshape(1).cast("int64"), "int64")
    after = x.rank - axis
    hot = x.cast("int64").unsqueeze(axis).equal(classes.unsqueeze(*range(1, after + 1)) if after else classes)
    return hot.where(on, off)


@handler("LowerBound", "UpperBound")
def bounds(call: Call, ordered: Value, values: Value) -> Value:
    """(b, m): where each of `values` (b, m) would go in its row of `ordered` (b, n)."""
    row, each = ordered.unsqueeze(1), values.unsqueeze(2)
    before = row < each if call.node.type == "LowerBound" else row <= each
    return before.cast("int64").reduce("Sum", 2).cast(call.output_dtype())


@handler("UnsortedSegmentMax", "UnsortedSegmentMin", "UnsortedSegmentSum", "UnsortedSegmentProd")
def segments(call: Call, x: Value, ids: Value, count: Value) -> Value:
    """Rows of one id reduced; rows of a negative id are left out. An empty segment holds what the dtype has as least
    (greatest) value, 0 or 1."""
    kind = call.node.type.removeprefix("UnsortedSegment")
    rank, length = ids.rank, count.cast("int64").reshape(1)
    inner = [x.size(i) for i in range(rank, x.rank)]
    rows = x.reshape(-1, *inner) if rank != 1 else x
    at = ids.reshape(-1).cast("int64")
    kept = at >= 0
    spare = length - 1 + 1  # one more segment takes what is left out
    at = kept.where(at, spare)
    start = call.op(
        "Expand", call.const(_neutral(kind, x.dtype), x.dtype), call.op("Concat", length + 1, *inner, axis=0)
    )
    scattered = call.op("ScatterND", start, at.unsqueeze(1), rows, reduction=REDUCTIONS[kind])
    zero, axis = call.const([0], "int64"), call.const([0], "int64")
    return call.op("Slice", scattered, zero, length, axis)


REDUCTIONS = {"Max": "max", "Min": "min", "Sum": "add", "Add": "add", "Prod": "mul"}


def _neutral(kind: str, dtype: np.dtype) -> object:
    if kind in ("Sum", "Prod"):
        return 0 if kind == "Sum" else 1
    info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return info.min if kind == "Max" else info.max


@handler("ScatterNd")
def scatter_nd(call: Call, at: Value, updates: Value, shape: Value) -> Value:
    """Into zeros; what meets is added."""
    zeros = call.op("Expand", call.const(0, updates.dtype), shape.cast("int64"))
    return call.op("ScatterND", zeros, at.cast("int64"), updates, reduction="add")


@handler("TensorScatterAdd", "TensorScatterSub", "TensorScatterMax", "TensorScatterMin")
def tensor_scatter(call: Call, x: Value, at: Value, updates: Value) -> Value:
    kind = call.node.type.removeprefix("TensorScatter")
    updates = -updates if kind == "Sub" else updates
    return call.op("ScatterND", x, at.cast("int64"), updates, reduction=REDUCTIONS.get(kind, "add"))
