"""Rules: parts of tensors, joins, repeats and axis order. Padding and windows are in `window.py`, diagonals in
`diagonal.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from ..builder import Unknown, is_known
from ..ir import TensorType
from .operands import plus
from .registry import MAPPED, SPATIAL, rule

FAR = 2**31 - 1  # torch writes "to the end" as 2**63 - 1; TensorFlow's slices take 32 bits
Size = Any


def plain(*sizes: Size) -> tuple[Size, ...]:
    """The sizes; raises Dynamic where one is not known yet."""
    return tuple(s + 0 for s in sizes)


def part(x: Any, axis: int, start: Size = None, end: Size = None, step: int = 1) -> Any:
    """`x[..., start:end:step, ...]` along a physical axis."""
    return x[(slice(None),) * axis + (slice(start, end, step),)]


def sizes_of(k: Any, type_: TensorType) -> list[Size]:
    """The sizes of a result, from its type."""
    return [k.size(d) for d in type_.shape]


def settled(k: Any, y: Any, type_: TensorType) -> Any:
    """`y`, with sizes that Keras lost but the type knows put back."""
    if not k.functional:
        return y
    order = k.perm if len(k.perm) == type_.rank else range(type_.rank)
    lost = any(d is None and isinstance(type_.shape[a], int) for a, d in zip(order, y.shape, strict=True))
    return k.reshape(y, [k.size(type_.shape[a]) for a in order]) if lost else y


def iota(k: Any, count: Size) -> Any:
    """0, 1, ... count-1 as int64: a table where the count is known."""
    return k.constant(np.arange(count), "int64") if is_known(count) else k.arange(0, count, 1, "int64")


def filled(k: Any, sizes: Sequence[Size], value: Any, dtype: str) -> Any:
    """A tensor of one value: a table where the sizes are known."""
    if all(is_known(n) for n in sizes):
        return k.constant(np.full(tuple(sizes), value), dtype)
    return k.full(sizes, value, dtype)


def in_torch_order(k: Any, x: Any) -> Any:
    """An operand of a MAPPED rule, brought to torch order."""
    if not k.perm or len(k.perm) != k.rank(x) or tuple(k.perm) == tuple(range(len(k.perm))):
        return x
    return ops.transpose(x, [k.perm.index(d) for d in range(len(k.perm))])


# ----------------------------------------------------------------------------------------------------------- identities
@rule("aten.permute_copy.default")
def permute_copy(k: Any, x: Any, dims: Sequence[int]) -> Any:
    return ops.transpose(x, [d % k.rank(x) for d in dims])


@rule("aten.transpose_copy.int")
def transpose_copy(k: Any, x: Any, a: int, b: int) -> Any:
    return ops.swapaxes(x, a, b) if k.rank(x) else x


@rule("aten.t_copy.default")
def t_copy(k: Any, x: Any) -> Any:
    return ops.transpose(x)


@rule(
    *(f"aten.{n}_copy.default" for n in ("view", "squeeze", "unsqueeze")),
    "aten.squeeze_copy.dim", "aten.squeeze_copy.dims",
    *(f"aten.{n}.default" for n in ("_reshape_alias", "ravel", "atleast_1d", "atleast_2d", "atleast_3d")),
)  # fmt: skip
def view_copy(k: Any, x: Any, *_: Any) -> Any:
    return k.reshape(x, sizes_of(k, k.out))


@rule("aten.view.dtype", "aten.view_copy.dtype")
def view_dtype(k: Any, x: Any, dtype: str) -> Any:
    return ops.view(x, dtype)


@rule("aten.copy.default")
def copy(k: Any, x: Any, source: Any) -> Any:
    return k.broadcast_to(source, sizes_of(k, k.out))


@rule("aten.as_strided.default", "aten.as_strided_copy.default")
def as_strided(k: Any, x: Any, size: Sequence[Size], stride: Sequence[Size], storage_offset: Size = None) -> Any:
    """Elements of a contiguous tensor by their place in memory (the capture lets no other operand through)."""
    place = k.constant(np.asarray(0 if storage_offset is None else storage_offset), "int64")
    for count, step in zip(plain(*size), plain(*stride), strict=True):
        place = plus(ops.expand_dims(place, -1), iota(k, count) * step)
    return ops.take(k.reshape(x, (-1,)), place, axis=0)


# --------------------------------------------------------------------------------------------------------- broadcasting
@rule("aten.expand.default", "aten.expand_copy.default", "aten.broadcast_to.default", "aten.expand_as.default")
def expand(k: Any, x: Any, size: Any, implicit: bool = False) -> Any:
    return k.broadcast_to(x, sizes_of(k, k.out))


@rule("aten.broadcast_tensors.default")
def broadcast_tensors(k: Any, tensors: Sequence[Any]) -> Any:
    return tuple(k.broadcast_to(x, sizes_of(k, k.out)) for x in tensors)


@rule("aten.meshgrid.default", "aten.meshgrid.indexing")
def meshgrid(k: Any, tensors: Sequence[Any], indexing: str = "ij") -> Any:
    axes = list(range(len(tensors)))
    if indexing == "xy" and len(tensors) > 1:
        axes[:2] = [1, 0]
    lifted = [
        k.reshape(x, [-1 if a == axis else 1 for a in range(len(axes))]) for x, axis in zip(tensors, axes, strict=True)
    ]
    return tuple(k.broadcast_to(x, sizes_of(k, k.out)) for x in lifted)


# ---------------------------------------------------------------------------------------------------------------- joins
@rule("aten.cat.default", "aten.concat.default", "aten.concatenate.default", layout=MAPPED, promote=True)
def cat(k: Any, tensors: Sequence[Any], dim: int = 0) -> Any:
    rank = k.out.rank
    full = [
        x for x in tensors if k.rank(x) == rank and (rank > 1 or k.type(x).shape != (0,))
    ]  # torch skips empty ones of one axis
    if not full:
        return tensors[0]
    return full[0] if len(full) == 1 else ops.concatenate(full, axis=k.axis(dim, rank))


@rule("aten.stack.default", promote=True)
def stack(k: Any, tensors: Sequence[Any], dim: int = 0) -> Any:
    return ops.stack(list(tensors), axis=dim % k.out.rank)


@rule("aten.block_diag.default", promote=True)
def block_diag(k: Any, tensors: Sequence[Any]) -> Any:
    rows, at = [], 0
    for x in tensors:
        x = k.reshape(x, (1,) * (2 - k.rank(x)) + tuple(k.shape(x)))
        width = k.shape(x)[1]
        rows.append(ops.pad(x, ((0, 0), (at, k.out.shape[1] - at - width))))
        at += width
    return ops.concatenate(rows, axis=0)


# ---------------------------------------------------------------------------------------------------------------- parts
def _bound(k: Any, at: Size, x: Any, dim: int) -> Size:
    """A slice bound in Python's sense. An unknown one that lies a fixed way before the end becomes negative."""
    if isinstance(at, Unknown) and at.sym is not None:
        size = k.type(x).shape[dim]
        names = at.sym.names
        if not isinstance(size, int) and names == size.names:
            gaps = [
                at.sym.evaluate(dict.fromkeys(names, v)) - size.evaluate(dict.fromkeys(names, v)) for v in (1013, 4057)
            ]
            gaps += [
                at.sym.evaluate({n: 977 + 131 * i for i, n in enumerate(sorted(names))})
                - size.evaluate({n: 977 + 131 * i for i, n in enumerate(sorted(names))})
            ]
            if len(set(gaps)) == 1 and gaps[0] <= 0:
                return gaps[0] or None
    if at is None:
        return None
    (at,) = plain(at)
    return max(-FAR, min(FAR, at)) if is_known(at) else at


@rule("aten.slice.Tensor", "aten.slice_copy.Tensor", layout=MAPPED)
def slice_(k: Any, x: Any, dim: int = 0, start: Size = None, end: Size = None, step: int = 1) -> Any:
    dim %= k.rank(x)
    if k.out.shape == k.type(x).shape and step == 1:
        return x
    if k.functional and isinstance(end, Unknown) and start in (None, 0) and step == 1:
        return ops.take(x, k.arange(0, end, 1, "int32"), axis=k.axis(dim))
    first = None if is_known(start) and start == 0 else _bound(k, start, x, dim)
    last = None if is_known(end) and end >= FAR else _bound(k, end, x, dim)
    return settled(k, part(x, k.axis(dim), first, last, step), k.out)


@rule("aten.select.int", "aten.select_copy.int", layout=MAPPED)
def select(k: Any, x: Any, dim: int, index: Size) -> Any:
    dim %= k.rank(x)
    at = _bound(k, index, x, dim)
    (axis,) = k.reduce([dim], False)
    return x[(slice(None),) * axis + (at,)]


@rule("aten.narrow.default", "aten.narrow_copy.default", layout=MAPPED)
def narrow(k: Any, x: Any, dim: int, start: Size, length: Size) -> Any:
    if k.out.shape == k.type(x).shape:
        return x
    dim %= k.rank(x)
    if is_known(start) and start < 0 and is_known(length):
        return settled(k, part(x, k.axis(dim), start, start + length or None), k.out)
    start, length = plain(start, length)
    return settled(k, part(x, k.axis(dim), start, start + length), k.out)


def pieces(k: Any, x: Any, dim: int) -> tuple[Any, ...]:
    """`x` cut along `dim` as the results' types say; the last piece may be of unknown size."""
    dim %= k.rank(x)
    axis = k.axis(dim)
    counts = [k.size(o.type.shape[dim]) for o in k.node.outputs]
    if len(counts) == 1:
        return (x,)
    if all(is_known(n) for n in counts):
        return tuple(ops.split(x, [sum(counts[: i + 1]) for i in range(len(counts) - 1)], axis=axis))
    out, at = [], 0
    for i, n in enumerate(counts):
        last = i == len(counts) - 1
        out.append(part(x, axis, at or None, None if last else at + n))
        at = at if last else at + n
    return tuple(out)


@rule(
    *(f"aten.{n}.Tensor" for n in ("split", "split_copy", "unsafe_split")), "aten.split.sizes",
    *(f"aten.{n}.default" for n in ("split_with_sizes", "split_with_sizes_copy", "unsafe_split_with_sizes")),
    *(f"aten.tensor_split.{o}" for o in ("sections", "indices")),
    "aten.chunk.default", "aten.unsafe_chunk.default", layout=MAPPED,
)  # fmt: skip
def split(k: Any, x: Any, how: Any, dim: int = 0) -> Any:
    return pieces(k, x, dim)


@rule("aten.hsplit.int", "aten.hsplit.array", layout=MAPPED)
def hsplit(k: Any, x: Any, how: Any) -> Any:
    return pieces(k, x, 1 if k.rank(x) > 1 else 0)


@rule("aten.vsplit.int", "aten.vsplit.array", layout=MAPPED)
def vsplit(k: Any, x: Any, how: Any) -> Any:
    return pieces(k, x, 0)


@rule("aten.dsplit.int", "aten.dsplit.array", layout=MAPPED)
def dsplit(k: Any, x: Any, how: Any) -> Any:
    return pieces(k, x, 2)


@rule("aten.unbind.int", "aten.unbind_copy.int", layout=MAPPED)
def unbind(k: Any, x: Any, dim: int = 0) -> Any:
    (axis,) = k.reduce([dim], False)
    return tuple(ops.unstack(x, num=len(k.node.outputs), axis=axis))


# -------------------------------------------------------------------------------------------------------------- repeats
@rule("aten.repeat.default", "aten.tile.default")
def repeat(k: Any, x: Any, repeats: Sequence[Size]) -> Any:
    repeats = [1] * (k.rank(x) - len(repeats)) + list(plain(*repeats))
    for _ in range(len(repeats) - k.rank(x)):
        x = ops.expand_dims(x, 0)
    return ops.tile(x, repeats) if any(not is_known(r) or r != 1 for r in repeats) else x


@rule("aten.repeat_interleave.self_int")
def repeat_interleave_int(k: Any, x: Any, repeats: Size, dim: int | None = None, output_size: Size = None) -> Any:
    (repeats,) = plain(repeats)
    if dim is None:
        x, dim = k.reshape(x, (-1,)), 0
    if not k.rank(x):
        x = k.reshape(x, (1,))
    dim %= k.rank(x)
    return ops.repeat(x, repeats, axis=dim)


@rule("aten.repeat_interleave.self_Tensor")
def repeat_interleave(k: Any, x: Any, repeats: Any, dim: int | None = None, output_size: Size = None) -> Any:
    if dim is None:
        x, dim = k.reshape(x, (-1,)), 0
    return ops.take(x, interleaved(k, repeats, k.out.shape[dim], k.shape(x)[dim]), axis=dim)


@rule("aten.repeat_interleave.Tensor")
def repeat_interleave_counts(k: Any, repeats: Any, output_size: Size = None) -> Any:
    return interleaved(k, repeats, k.out.shape[0], None)


def interleaved(k: Any, repeats: Any, total: Any, count: Size) -> Any:
    """[0]*repeats[0] + [1]*repeats[1] + ...: for each of `total` places the number of counts that are used up."""
    if count is not None:
        repeats = k.broadcast_to(k.reshape(repeats, (-1,)), (count,))
    ends = ops.cumsum(k.cast(repeats, "int64"))
    try:
        places = iota(k, plain(k.size(total))[0])
    except KeyError:  # the size depends on the counts alone
        places = ops.cast(ops.arange(ends[-1]), "int64")
    return ops.sum(ops.cast(ops.expand_dims(places, 1) >= ops.expand_dims(ends, 0), "int64"), axis=1)


# ----------------------------------------------------------------------------------------------------------- axis order
@rule("aten.flip.default", layout=MAPPED)
def flip(k: Any, x: Any, dims: Sequence[int]) -> Any:
    return ops.flip(x, axis=k.axes(dims)) if dims and k.rank(x) else x


@rule("aten.fliplr.default")
def fliplr(k: Any, x: Any) -> Any:
    return ops.flip(x, axis=1)


@rule("aten.flipud.default")
def flipud(k: Any, x: Any) -> Any:
    return ops.flip(x, axis=0)


@rule("aten.roll.default", layout=MAPPED)
def roll(k: Any, x: Any, shifts: Sequence[Size], dims: Sequence[int] = ()) -> Any:
    if not dims:
        x = in_torch_order(k, x)
        flat = ops.roll(k.reshape(x, (-1,)), plain(*shifts)[0], axis=0)
        y = k.reshape(flat, sizes_of(k, k.out))
        return ops.transpose(y, k.perm) if len(k.perm) == k.rank(y) else y
    for shift, dim in zip(plain(*shifts), dims, strict=True):
        x = ops.roll(x, shift, axis=k.axis(dim))
    return x


@rule("aten.rot90.default")
def rot90(k: Any, x: Any, times: int = 1, dims: Sequence[int] = (0, 1)) -> Any:
    a, b = (d % k.rank(x) for d in dims)
    times %= 4
    if times == 2:
        return ops.flip(x, axis=(a, b))
    if times == 0:
        return x
    return ops.swapaxes(ops.flip(x, axis=b), a, b) if times == 1 else ops.flip(ops.swapaxes(x, a, b), axis=b)


@rule("aten.channel_shuffle.default", "aten.native_channel_shuffle.default", layout=SPATIAL)
def channel_shuffle(k: Any, x: Any, groups: int) -> Any:
    (groups,) = plain(groups)
    axis = k.rank(x) - 1
    *lead, c = k.shape(x)
    grouped = k.reshape(x, (*lead, groups, c // groups))
    return k.reshape(ops.swapaxes(grouped, axis, axis + 1), (*lead, c))


def _as_images(k: Any, x: Any) -> Any:
    """(*, C, H, W) of any rank, handed over channels last as the SPATIAL layout has it -> (N, H, W, C)."""
    if k.rank(x) == 4:
        return x
    x = ops.moveaxis(x, -1, 1)
    shape = k.shape(x)
    return ops.moveaxis(k.reshape(x, (-1, *shape[-3:])), 1, -1)


def _as_given(k: Any, y: Any) -> Any:
    if k.out.rank == 4:
        return y
    y = k.reshape(ops.moveaxis(y, -1, 1), sizes_of(k, k.out))
    return ops.moveaxis(y, 1, -1)


@rule("aten.pixel_shuffle.default", layout=SPATIAL)
def pixel_shuffle(k: Any, x: Any, factor: int) -> Any:
    x = _as_images(k, x)
    n, h, w, c = k.shape(x)
    grid = ops.transpose(k.reshape(x, (n, h, w, c // factor**2, factor, factor)), (0, 1, 4, 2, 5, 3))
    tall, wide = (k.size(d) for d in k.out.shape[-2:])
    return _as_given(k, k.reshape(grid, (n, tall, wide, c // factor**2)))


@rule("aten.pixel_unshuffle.default", layout=SPATIAL)
def pixel_unshuffle(k: Any, x: Any, factor: int) -> Any:
    x = _as_images(k, x)
    n, h, w, c = k.shape(x)
    h, w = (k.size(d) for d in k.out.shape[-2:])
    grid = ops.transpose(k.reshape(x, (n, h, factor, w, factor, c)), (0, 1, 3, 5, 2, 4))
    return _as_given(k, k.reshape(grid, (n, h, w, c * factor**2)))
