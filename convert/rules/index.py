"""Rules: reading by index. Writing by index stands in `scatter.py`, searching in `search.py`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from ..builder import Dynamic, is_known, same_size
from .operands import plus
from .registry import MAPPED, layer_form, rule
from .shape import Size, filled, iota, part, plain


# ----------------------------------------------------------------------------------------------------------- embeddings
def without_padding(indices: Any, rows: Any, padding_idx: Any) -> Any:
    """The rows, with no gradient to the row of `padding_idx`: torch leaves it where it is."""
    if is_known(padding_idx) and padding_idx < 0:
        return rows
    return ops.where(ops.expand_dims(ops.equal(indices, padding_idx), -1), ops.stop_gradient(rows), rows)


@rule("aten.embedding.default")
def embedding(
    k: Any, weight: Any, indices: Any, padding_idx: Any = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Any:
    return without_padding(indices, rows_read(k, weight, indices, scale_grad_by_freq), padding_idx)


def rows_read(k: Any, weight: Any, indices: Any, scale_grad_by_freq: bool) -> Any:
    """The rows at the indices; if wished, with each gradient over how often its row was read."""
    rows = ops.take(weight, indices, axis=0)
    if not scale_grad_by_freq:
        return rows
    often = ops.take(count(k, k.reshape(indices, (-1,)), k.shape(weight)[0], k.dtype(weight)), indices, axis=0)
    share = ops.expand_dims(1.0 / often, -1)
    return plus(rows * share, ops.stop_gradient(rows - rows * share))


@layer_form("aten.embedding.default", params=("weight",))
def embedding_layer(
    k: Any, weight: Any, indices: Any, padding_idx: Any = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Any:
    if scale_grad_by_freq:
        return None
    count, width = weight.type.shape
    rows = k.layer(keras.layers.Embedding, indices, weights={"embeddings": weight}, input_dim=count, output_dim=width)
    return without_padding(indices, rows, padding_idx)


def count(k: Any, ids: Any, bins: Size, dtype: str) -> Any:
    """How often each of 0..bins-1 occurs in a flat `ids`."""
    ones = k.cast(ops.ones_like(ids), dtype)
    return ops.scatter_update(filled(k, (bins,), 0, dtype), ops.expand_dims(ids, -1), ones, reduction="add")


@rule("aten.embedding_bag.default", "aten.embedding_bag.padding_idx")
def embedding_bag(
    k: Any, weight: Any, indices: Any, offsets: Any, scale_grad_by_freq: bool = False, mode: int = 0,
    sparse: bool = False, per_sample_weights: Any = None, include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:  # fmt: skip
    """Sums (mode 0), means (1) or maxima (2) of the rows between offsets, then what torch keeps for its backward pass:
    the bag of each index, the bag sizes, the argmax of each bag (zeros here)."""
    bags = plain(k.shape(offsets)[0])[0] - include_last_offset
    total = plain(k.shape(indices)[0])[0]
    starts = ops.expand_dims(part(offsets, 0, 0, bags), 0)
    bag = ops.sum(ops.cast(ops.expand_dims(iota(k, total), 1) >= starts, "int64"), axis=1) - 1
    rows = rows_read(k, weight, indices, scale_grad_by_freq)
    counted = (
        ops.ones_like(indices)
        if padding_idx is None
        else ops.cast(ops.not_equal(indices, padding_idx % k.shape(weight)[0]), "int64")
    )
    kept = ops.expand_dims(ops.not_equal(counted, 0), -1)
    sizes = ops.segment_sum(counted, bag, num_segments=bags)
    if per_sample_weights is not None:
        rows = rows * ops.expand_dims(per_sample_weights, -1)
    if mode == 2:
        largest = ops.segment_max(ops.where(kept, rows, -float("inf")), bag, num_segments=bags)
        out = ops.where(ops.expand_dims(sizes, -1) > 0, largest, 0.0)
        return out, bag, sizes, ops.zeros_like(out)
    out = ops.segment_sum(ops.where(kept, rows, 0.0), bag, num_segments=bags)
    if mode == 1:
        out = out / ops.expand_dims(k.cast(ops.maximum(sizes, 1), k.dtype(weight)), -1)
    return out, bag, sizes, sizes


# ------------------------------------------------------------------------------------------------------ index tensors
def wrapped(k: Any, index: Any, size: Size) -> Any:
    """Negative indices count from the end."""
    return ops.where(index < 0, plus(index, plain(size)[0]), index)


def index_pairs(k: Any, x: Any, indices: Sequence[Any]) -> list[tuple[int, Any]]:
    """(axis, index tensor) for each indexed axis. A mask stands for one index tensor per axis it has; at call time."""
    pairs: list[tuple[int, Any]] = []
    axis = 0
    for index in indices:
        if index is None:
            axis += 1
        elif k.dtype(index) in ("bool", "uint8"):
            if k.functional:
                raise Dynamic("the number of elements a mask selects is only known at call time")
            for places in ops.nonzero(index):
                pairs.append((axis, ops.cast(places, "int64")))
                axis += 1
        else:
            pairs.append((axis, index))
            axis += 1
    return pairs


def joint_index(k: Any, x: Any, pairs: Sequence[tuple[int, Any]]) -> tuple[Any, Size]:
    """One index into the indexed axes laid end to end, and their joint size. The index tensors broadcast."""
    joint, total = None, 1
    for axis, index in pairs:
        (size,) = plain(k.shape(x)[axis])
        index = wrapped(k, k.cast(index, "int64"), size)
        joint = index if joint is None else plus(ops.multiply(joint, size), index)
        total = total * size
    return joint, total


def adjacent(axes: Sequence[int]) -> bool:
    return all(b == a + 1 for a, b in itertools.pairwise(axes))


@rule("aten.index.Tensor", "aten._unsafe_index.Tensor")
def index(k: Any, x: Any, indices: Sequence[Any]) -> Any:
    pairs = index_pairs(k, x, indices)
    if not pairs:
        return x
    axes = [a for a, _ in pairs]
    if len(pairs) == 1:
        return ops.take(x, pairs[0][1], axis=axes[0])
    joint, total = joint_index(k, x, pairs)
    if not adjacent(axes):  # torch then puts the result of the indices first
        x = ops.transpose(x, [*axes, *(a for a in range(k.rank(x)) if a not in axes)])
        axes = list(range(len(axes)))
    shape = list(k.shape(x))
    return ops.take(k.reshape(x, [*shape[: axes[0]], total, *shape[axes[-1] + 1 :]]), joint, axis=axes[0])


@rule("aten.index_select.default", layout=MAPPED)
def index_select(k: Any, x: Any, dim: int, index: Any) -> Any:
    if not k.rank(x):
        return k.reshape(ops.take(k.reshape(x, (1,)), k.reshape(index, (-1,)), axis=0), ())
    return ops.take(x, k.reshape(index, (-1,)) if k.rank(index) == 0 else index, axis=k.axis(dim))


@rule("aten.take.default")
def take(k: Any, x: Any, index: Any) -> Any:
    return ops.take(k.reshape(x, (-1,)), index, axis=0)


def trimmed(k: Any, x: Any, index: Any, but: int | None = None) -> Any:
    """`x` cut to the sizes of `index` in every axis but one: torch lets the index be smaller."""
    have, want = k.shape(x), k.shape(index)
    if all(a == but or same_size(h, w) for a, (h, w) in enumerate(zip(have, want, strict=True))):
        return x
    return x[
        tuple(
            slice(None) if a == but or same_size(h, w) else slice(0, plain(w)[0])
            for a, (h, w) in enumerate(zip(have, want, strict=True))
        )
    ]


@rule("aten.gather.default")
def gather(k: Any, x: Any, dim: int, index: Any, sparse_grad: bool = False) -> Any:
    if not k.rank(x) or not k.rank(index):
        return k.reshape(
            ops.take(k.reshape(x, (-1,)), k.reshape(index, (-1,)), axis=0), [k.size(d) for d in k.out.shape]
        )
    dim %= k.rank(x)
    return ops.take_along_axis(trimmed(k, x, index, dim), index, axis=dim)


@rule("aten.take_along_dim.default")
def take_along_dim(k: Any, x: Any, indices: Any, dim: int | None = None) -> Any:
    if dim is None:
        return ops.take(k.reshape(x, (-1,)), k.reshape(indices, (-1,)), axis=0)
    return ops.take_along_axis(x, indices, axis=dim)


# ---------------------------------------------------------------------------------------------------------------- masks
def _at_call_time(k: Any) -> None:
    if k.functional:
        raise Dynamic("the number of elements a mask selects is only known at call time")


@rule("aten.masked_select.default")
def masked_select(k: Any, x: Any, mask: Any) -> Any:
    _at_call_time(k)
    shape = ops.shape(ops.logical_or(mask, ops.zeros_like(x, dtype="bool")))
    x, mask = ops.broadcast_to(x, shape), ops.broadcast_to(mask, shape)
    (places,) = ops.nonzero(ops.reshape(mask, (-1,)))
    return ops.take(ops.reshape(x, (-1,)), places, axis=0)


@rule("aten.nonzero.default", "aten.argwhere.default")
def nonzero(k: Any, x: Any) -> Any:
    _at_call_time(k)
    if not k.rank(x):
        found = ops.nonzero(ops.reshape(x, (1,)))[0]
        return ops.reshape(found, (-1, 1))[:, :0]
    return ops.stack([ops.cast(i, "int64") for i in ops.nonzero(x)], axis=1)


@rule("aten.nonzero_numpy.default")
def nonzero_numpy(k: Any, x: Any) -> Any:
    _at_call_time(k)
    return tuple(ops.nonzero(ops.reshape(x, (1,)) if not k.rank(x) else x))


@rule("aten.nonzero_static.default")
def nonzero_static(k: Any, x: Any, size: Size, fill_value: int = -1) -> Any:
    _at_call_time(k)
    found = nonzero(k, x)[:size]
    return ops.pad(found, ((0, size - ops.shape(found)[0]), (0, 0)), constant_values=fill_value)


@rule("aten.item.default")
def item(k: Any, x: Any) -> Any:
    """A number read out of a tensor, to serve as a size: capture gives the op a result that is as long as the number
    says (and somewhat longer, so that it may be negative), from which the dim is then read. A number out of range
    raises."""
    if k.functional:
        raise Dynamic("a size read out of a tensor")
    base = k.out.shape[0].evaluate(dict.fromkeys(k.out.shape[0].names, 0))
    return k.full((k.reshape(x, ()) + base,), False, "bool")
