"""Ops that pick elements: slices, indices, masks."""

from __future__ import annotations

from typing import Any

import torch

from ..operands import Sizes, constant_of, ints, leaf, number, rank_of
from ..registry import rule
from .moves import by_bits, from_start, positive_axis
from .sizes import dims_of, made_dims, nonnegative, shape_source, smaller

_END = 2**31 - 1  # from here on an end means "to the end"


# ------------------------------------------------------------------------------------------------------------- slices
@rule("Slice", since=1)
def slice_1(x: Any, *, starts: tuple[int, ...], ends: tuple[int, ...], axes: tuple[int, ...] | None = None) -> Any:
    return slice_10(x, starts, ends, axes)


@rule("Slice", since=10)
def slice_10(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    """Bounds out of range are clamped; a negative step goes backwards."""
    starts, ends, axes, steps = (ints(v) for v in (starts, ends, axes, steps))
    count = next((len(v) for v in (starts, ends, axes, steps) if isinstance(v, tuple)), None)
    if count is None or any(v is not None and not isinstance(v, tuple) for v in (axes, steps)):
        return slice_by(x, starts, ends, axes, steps)
    axes = tuple(range(count)) if axes is None else axes
    steps = (1,) * count if steps is None else steps
    rank = rank_of(x)
    if not all(isinstance(v, int) for v in (*axes, *steps)) or (rank is None and min(axes, default=0) < 0):
        return slice_by(x, starts, ends, axes, steps)
    return _slice(x, rank, starts, ends, axes, steps)


def _slice(x: Any, rank: int | None, starts: Any, ends: Any, axes: Any, steps: Any) -> Any:
    axes = [a if a >= 0 or rank is None else a + rank for a in axes]
    backwards = tuple(a for a, step in zip(axes, steps, strict=True) if step < 0)
    if backwards:
        x = x.flip(backwards)
    cuts: dict[int, slice] = {}
    for i, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        start, end = starts[i], ends[i]  # they may be a proxy, which cannot be iterated
        cut = slice(start, end, step) if step > 0 else _backwards(x, axis, start, end, step)
        # Python cuts off what is beyond 64 bits
        first, last = (max(v, -(2**62)) if isinstance(v, int) else v for v in (cut.start, cut.stop))
        first = None if isinstance(first, int) and first == 0 else first
        last = None if isinstance(last, int) and last >= _END else last
        if first is not None or last is not None or cut.step != 1:
            cuts[axis] = slice(first, last, None if cut.step == 1 else cut.step)
    return x[tuple(cuts.get(a, slice(None)) for a in range(max(cuts) + 1))] if cuts else x


def _backwards(x: Any, axis: int, start: Any, end: Any, step: int) -> slice:
    """The slice of what is flipped, whose index -1 - i is index i. A start before the first element is that element."""
    first = -1 - start
    if not (nonnegative(start) or (isinstance(start, int) and start == -1)):
        dims = dims_of(x)
        first = smaller(first, (x.size(axis) if dims is None else dims[axis]) - 1)
    return slice(first, -1 - end, -step)


@leaf
def slice_by(x: torch.Tensor, starts: Any, ends: Any, axes: Any, steps: Any) -> torch.Tensor:
    """A slice whose axes or steps are known at run time only."""
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    found: torch.Tensor = _slice(x, x.dim(), starts, ends, axes, steps)
    return found


# ------------------------------------------------------------------------------------------------------------ indices
@rule("Gather")
def gather(x: Any, index: Any, *, axis: int = 0) -> Any:
    """x[..., index, ...]: the dims of the index stand in place of `axis`."""
    at, rank = positive_axis(axis, x), rank_of(index)
    known = constant_of(index)
    source = shape_source(x)
    if source is not None and known is not None and known.ndim < 2:
        sizes = Sizes.of(source.size(int(i)) for i in known.reshape(-1))
        return sizes if known.ndim else Sizes.scalar(sizes.items[0])
    if rank is None:
        return gather_at(x, index, at)
    if known is not None and rank == 0:
        return x[_place(at, int(known))]
    return _gather(x, index, at, rank)


def _gather(x: Any, index: Any, axis: int, rank: int) -> Any:
    """rank: of the index. One of no dims would be asked for its number, which torch.export does not know."""
    return x[_place(axis, index)] if rank else x[_place(axis, index.reshape(1))].squeeze(axis)


def _place(axis: int, index: Any) -> Any:
    """What picks by `index` along an axis."""
    if axis < 0:
        return (..., index, *(slice(None),) * (-1 - axis))
    return (*(slice(None),) * axis, index) if axis else index


@leaf
def gather_at(x: torch.Tensor, index: torch.Tensor, axis: int) -> torch.Tensor:
    """`gather` by an index whose rank is known at run time only."""
    found: torch.Tensor = _gather(x, index, axis, index.dim())
    return found


@rule("GatherElements", since=11)
def gather_elements(x: Any, index: Any, *, axis: int = 0) -> Any:
    """result[i, j] = x[index[i, j], j] for axis 0."""
    where = from_start(index, x.size(axis))
    return by_bits(lambda t: t.gather(axis, where), x)


@rule("GatherND", since=11)
def gather_nd(x: Any, index: Any, *, batch_dims: int = 0) -> Any:
    """The last dim of the index is a position in x; the first `batch_dims` dims of both go together."""
    return pick(x, index, batch_dims)


@leaf
def pick(x: torch.Tensor, index: torch.Tensor, batch_dims: int = 0) -> torch.Tensor:
    """x at the positions that the last dim of `index` holds, sample by sample of the first `batch_dims` dims."""
    rest = index.dim() - 1 - batch_dims
    batch = [
        torch.arange(x.size(d), device=x.device).view([-1] + [1] * (batch_dims - 1 - d + rest))
        for d in range(batch_dims)
    ]
    return x[(*batch, *index.unbind(-1))]


@rule("ReverseSequence", since=10)
def reverse_sequence(x: Any, lengths: Any, *, batch_axis: int = 1, time_axis: int = 0) -> Any:
    return by_bits(lambda t: reverse_padded(t, lengths, batch_axis, time_axis), x)


@leaf
def reverse_padded(x: torch.Tensor, lengths: torch.Tensor, batch_axis: int, time_axis: int) -> torch.Tensor:
    """The first lengths[b] steps of each sample in reverse; the rest stays."""
    step = torch.arange(x.size(time_axis), device=x.device)
    last = lengths.unsqueeze(1) - 1
    source = torch.where(step <= last, last - step, step)  # (batch, time)
    source = source if batch_axis % x.dim() < time_axis % x.dim() else source.t()
    shape = [x.size(i) if i in (batch_axis % x.dim(), time_axis % x.dim()) else 1 for i in range(x.dim())]
    return x.gather(time_axis, source.reshape(shape).expand_as(x))


# -------------------------------------------------------------------------------------------------------------- masks
@rule("Compress", since=9)
def compress(x: Any, condition: Any, *, axis: int | None = None) -> Any:
    """The elements (slices along an axis) where the condition, which may be shorter, is true."""
    kept = condition if (known := constant_of(condition)) is None else known
    index = kept.nonzero().squeeze(1)
    if axis is None:
        return x.flatten()[index]
    return x[_place(positive_axis(axis, x), index)]


@rule("NonZero", since=9)
def non_zero(x: Any) -> Any:
    """The positions of the elements that are not zero, a column each. Of a row of ones exporters take it as a range."""
    dims = made_dims(x)
    if dims is not None and len(dims) == 1 and x.node.meta.get("filler"):
        return torch.arange(dims[0], device=x.device).unsqueeze(0)
    return (x != 0).nonzero().t()


@rule("OneHot", since=9)
def one_hot(index: Any, depth: Any, values: Any, *, axis: int = -1) -> Any:
    """values[1] along a new axis at the index, values[0] elsewhere and wherever the index is out of range."""
    depth = number(depth)
    return select_one(index, int(depth) if isinstance(depth, float) else depth, values, axis)


@leaf
def select_one(index: torch.Tensor, depth: Any, values: torch.Tensor, axis: int) -> torch.Tensor:
    """`one_hot` with off = values[0] and on = values[1]."""
    depth = int(depth)
    where = from_start(index, depth).unsqueeze(axis)
    steps = torch.arange(depth, device=index.device)
    axis = axis % where.dim()
    return torch.where(where == steps.view([-1] + [1] * (where.dim() - 1 - axis)), values[1], values[0])


@rule("Trilu", since=14)
def trilu(x: Any, k: Any = None, *, upper: int = 1) -> Any:
    """The matrices' upper (lower) triangles from the k-th diagonal on (up to it)."""
    diagonal = 0 if k is None else number(k)
    return by_bits(lambda t: torch.triu(t, diagonal) if upper else torch.tril(t, diagonal), x)
